//! XEP-0050 Ad-Hoc Commands, version 1.3.0.
//!
//! Supported: commands of a served domain: their list (§2.2), execution at once or with one form (§2.4),
//! cancelling (§2.4.3).
//! Not supported: commands of several stages and the announcing of lists (§2.3). Nothing is kept between
//! the form and its submission, so that a `sessionid` is told and not compared.

use rookery_proto::error::{Condition, StanzaError};
use rookery_proto::stanza::Stanza;
use rookery_proto::xml::Element;

use crate::feature::Feature;
use crate::{xep0004_data_forms as forms, xep0030_disco as disco};

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::partial(50, "1.3.0", &[NS]);

/// Namespace of `<command/>`, and the node of the list of commands (§2.2).
pub const NS: &str = "http://jabber.org/protocol/commands";

/// A request to run a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Which command.
    pub node: String,
    /// The session that it goes on with, if it is not new.
    pub session: Option<String>,
    /// Whether to give it up.
    pub is_cancelled: bool,
    /// The `<command/>`, with the form that may be in it.
    pub element: Element,
}

impl Command {
    /// Reads the payload of an IQ set.
    ///
    /// # Errors
    /// `bad-request` without a node, with an action that there is not (`malformed-action`), or that these
    /// commands do not have (`bad-action`, §3.4).
    pub fn parse(iq: &Stanza) -> Result<Self, StanzaError> {
        let element = iq.payload().filter(|payload| payload.is("command", NS));
        let element = element.ok_or(Condition::BadRequest)?;
        let node = element.attr("node").filter(|node| !node.is_empty());
        let session = element.attr("sessionid").map(str::to_owned);
        let is_cancelled = match element.attr("action") {
            None | Some("execute" | "complete") => false,
            Some("cancel") => true,
            Some("next" | "prev") => return Err(bad("bad-action")),
            Some(_) => return Err(bad("malformed-action")),
        };
        Ok(Self {
            node: node.ok_or(Condition::BadRequest)?.to_owned(),
            session,
            is_cancelled,
            element: element.clone(),
        })
    }

    /// The form that is to be filled in (§2.4.2). `session`: for a command that is new.
    pub fn executing(&self, session: &str, form: Element) -> Element {
        let actions = Element::new("actions", NS)
            .with_attr("execute", "complete")
            .with_child(Element::new("complete", NS));
        self.answer(session, "executing")
            .with_child(actions)
            .with_child(form)
    }

    /// The command is done; `result` is what it tells.
    pub fn completed(&self, session: &str, result: Option<Element>) -> Element {
        self.answer(session, "completed").with_children(result)
    }

    /// The command was given up (§2.4.3).
    pub fn cancelled(&self, session: &str) -> Element {
        self.answer(session, "canceled")
    }

    fn answer(&self, session: &str, status: &str) -> Element {
        Element::new("command", NS)
            .with_attr("node", &self.node)
            .with_attr("sessionid", self.session.as_deref().unwrap_or(session))
            .with_attr("status", status)
    }
}

/// `bad-request` with a condition of this protocol (§3.4).
pub fn bad(condition: &str) -> StanzaError {
    StanzaError::new(Condition::BadRequest).with_app(Element::new(condition, NS))
}

/// The list of commands (§2.2): the disco#items `<query/>` of a result. `commands` are nodes and names.
pub fn list<'a>(domain: &str, commands: impl IntoIterator<Item = (String, &'a str)>) -> Element {
    let items = commands.into_iter().map(|(node, name)| {
        Element::new("item", disco::NS_ITEMS)
            .with_attr("jid", domain)
            .with_attr("node", node)
            .with_attr("name", name)
    });
    Element::new("query", disco::NS_ITEMS)
        .with_attr("node", NS)
        .with_children(items)
}

/// What a command is (§2.2), or the list of them (`name`: none): the disco#info `<query/>` of a result.
pub fn info(node: &str, name: Option<&str>) -> Element {
    let kind = name.map_or("command-list", |_| "command-node");
    let mut identity = Element::new("identity", disco::NS_INFO)
        .with_attr("category", "automation")
        .with_attr("type", kind);
    if let Some(name) = name {
        identity.set_attr("name", name);
    }
    let features =
        [NS, forms::NS].map(|var| Element::new("feature", disco::NS_INFO).with_attr("var", var));
    Element::new("query", disco::NS_INFO)
        .with_attr("node", node)
        .with_child(identity)
        .with_children(features)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::iq;

    fn command(attributes: &str) -> Result<Command, StanzaError> {
        Command::parse(&iq("set", &format!("<command xmlns='{NS}' {attributes}/>")))
    }

    /// §2.4, §3.4
    #[test]
    fn actions_are_told_apart() {
        for action in ["", "action='execute'", "action='complete'"] {
            let command = command(&format!("node='list' {action}")).unwrap();
            assert_eq!(
                (command.node.as_str(), command.is_cancelled),
                ("list", false)
            );
        }
        assert!(command("node='list' action='cancel'").unwrap().is_cancelled);
        for (action, condition) in [("next", "bad-action"), ("x", "malformed-action")] {
            let error = command(&format!("node='list' action='{action}'")).unwrap_err();
            assert_eq!(error, bad(condition));
        }
        assert_eq!(command("").unwrap_err().condition, Condition::BadRequest);
    }

    /// §2.4
    #[test]
    fn answers_name_node_and_session() {
        let new = command("node='list'").unwrap();
        assert_eq!(
            new.completed("s1", None).to_xml(""),
            "<command xmlns='http://jabber.org/protocol/commands' node='list' sessionid='s1' \
             status='completed'/>"
        );
        let going_on = command("node='list' sessionid='s0'").unwrap();
        let form = Element::new("x", forms::NS);
        let answer = going_on.executing("s1", form);
        assert_eq!(answer.attr("sessionid"), Some("s0"));
        let actions = answer.child("actions", NS).unwrap();
        assert_eq!(actions.attr("execute"), Some("complete"));
        assert!(actions.child("complete", NS).is_some());
        assert_eq!(going_on.cancelled("s1").attr("status"), Some("canceled"));
    }

    /// §2.2
    #[test]
    fn commands_are_listed_and_described() {
        let list = list("localhost", [("n".to_owned(), "Name")]);
        assert_eq!(
            list.to_xml(""),
            "<query xmlns='http://jabber.org/protocol/disco#items' \
             node='http://jabber.org/protocol/commands'>\
             <item jid='localhost' node='n' name='Name'/></query>"
        );
        let kind = |info: Element| {
            let identity = info.child("identity", disco::NS_INFO).unwrap();
            identity.attr("type").unwrap().to_owned()
        };
        assert_eq!(kind(info(NS, None)), "command-list");
        assert_eq!(kind(info("n", Some("Name"))), "command-node");
    }
}
