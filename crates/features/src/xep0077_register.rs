//! XEP-0077 In-Band Registration, version 2.4.
//!
//! Supported: creating an account before login (§3.1), cancelling it (§3.2) and changing the
//! password (§3.3) after login, each subject to a [`Policy`]; the stream feature (§8).
//! Not supported: data forms (§4), redirection (§5) and the numeric error codes of §9. Clients
//! without support for anything newer than those codes see errors without a code.

use rookery_proto::error::Condition;
use rookery_proto::jid::BareJid;
use rookery_proto::stanza::{IqType, Kind, Stanza};
use rookery_proto::xml::Element;

use crate::feature::Feature;
use crate::password::{self, Password};

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::partial(77, "2.4", &[NS]);

/// Namespace of the requests.
pub const NS: &str = "jabber:iq:register";

/// Namespace of the stream feature.
pub const NS_FEATURE: &str = "http://jabber.org/features/iq-register";

/// What this server allows on this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Strangers may create accounts.
    pub registration: bool,
    /// Users may change their passwords and remove their accounts.
    pub account_changes: bool,
    /// Passwords may be sent on this stream: it is encrypted, or encryption is switched off.
    pub channel_is_safe: bool,
}

/// What a client asks for before it has logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BeforeLogin {
    /// The fields to fill in; the answer is [`form`].
    Form,
    /// A new account. If it exists, the answer is `Conflict`.
    Create {
        /// The account's address.
        account: BareJid,
        /// Its password, not empty.
        password: Password,
    },
}

/// What a client asks for after login, about its own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedIn {
    /// The state of the registration; the answer is [`registered`].
    State,
    /// Another password, not empty.
    ChangePassword(Password),
    /// The end of the account. After the result every session of the account ends with the stream
    /// error `not-authorized`, and its subscriptions are cancelled (§3.2).
    Remove,
}

/// Reads a request that came before login, for an account at `domain`.
///
/// # Errors
/// `ServiceUnavailable` if there is no registration here; `NotAuthorized` if the stream is not
/// safe for a password; `NotAcceptable` if username or password is missing or not
/// allowed (§3.1); `UnexpectedRequest` for the removal of an account without being logged in
/// (§3.2); `BadRequest` for all else.
pub fn before_login(iq: &Stanza, domain: &str, policy: Policy) -> Result<BeforeLogin, Condition> {
    if !policy.registration {
        return Err(Condition::ServiceUnavailable);
    }
    let query = query(iq)?;
    if iq.kind == Kind::Iq(IqType::Get) {
        return Ok(BeforeLogin::Form);
    }
    if query.child("remove", NS).is_some() {
        return Err(Condition::UnexpectedRequest);
    }
    if !policy.channel_is_safe {
        return Err(Condition::NotAuthorized);
    }
    let username = field(query, "username").ok_or(Condition::NotAcceptable)?;
    let account = BareJid::new(Some(&username), domain).map_err(|_| Condition::NotAcceptable)?;
    let password = password(query).ok_or(Condition::NotAcceptable)?;
    Ok(BeforeLogin::Create { account, password })
}

/// Reads a request of a logged-in client about its own account.
///
/// # Errors
/// `NotAllowed` if changes are not allowed here; `BadRequest` if `<remove/>` is not alone (§3.2),
/// or username or password is missing or not allowed (§3.3); `NotAcceptable` if the username
/// is that of a second account (§3.1.1); `NotAuthorized` if the stream is not safe for a password.
pub fn logged_in(iq: &Stanza, account: &BareJid, policy: Policy) -> Result<LoggedIn, Condition> {
    let query = query(iq)?;
    if iq.kind == Kind::Iq(IqType::Get) {
        return Ok(LoggedIn::State);
    }
    if !policy.account_changes {
        return Err(Condition::NotAllowed);
    }
    if query.child("remove", NS).is_some() {
        return match query.children().count() {
            1 => Ok(LoggedIn::Remove),
            _ => Err(Condition::BadRequest),
        };
    }
    if !policy.channel_is_safe {
        return Err(Condition::NotAuthorized);
    }
    let username = field(query, "username").ok_or(Condition::BadRequest)?;
    match BareJid::new(Some(&username), account.domain()) {
        Ok(named) if named == *account => {}
        _ => return Err(Condition::NotAcceptable),
    }
    password(query)
        .map(LoggedIn::ChangePassword)
        .ok_or(Condition::BadRequest)
}

/// The `<query/>` that asks a stranger for username and password (§3.1).
pub fn form() -> Element {
    Element::new("query", NS)
        .with_child(
            Element::new("instructions", NS)
                .with_text("Choose a username and password to register with this server."),
        )
        .with_child(Element::new("username", NS))
        .with_child(Element::new("password", NS))
}

/// The `<query/>` that tells a logged-in client of its registration (§3.1). The password stays
/// empty: it is not known here.
pub fn registered(account: &BareJid) -> Element {
    let username = account.local().unwrap_or_default();
    Element::new("query", NS)
        .with_child(Element::new("registered", NS))
        .with_child(Element::new("username", NS).with_text(username))
        .with_child(Element::new("password", NS))
}

/// The stream feature, for streams on which a stranger may register (§8).
pub fn stream_feature() -> Element {
    Element::new("register", NS_FEATURE)
}

/// The `<query/>` of a request.
fn query(iq: &Stanza) -> Result<&Element, Condition> {
    iq.payload()
        .filter(|payload| payload.is("query", NS))
        .ok_or(Condition::BadRequest)
}

/// The text of a field; `None` if it is missing or empty.
fn field(query: &Element, name: &str) -> Option<String> {
    Some(query.child(name, NS)?.text()).filter(|text| !text.is_empty())
}

/// The password of a request; `None` if it is missing, empty, too long or cannot be prepared.
fn password(query: &Element) -> Option<Password> {
    let text = field(query, "password")?;
    password::prepare(&text)
        .is_ok()
        .then(|| Password::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{element, iq};

    const OPEN: Policy = Policy {
        registration: true,
        account_changes: true,
        channel_is_safe: true,
    };

    fn bill() -> BareJid {
        BareJid::parse("bill@shakespeare.lit").unwrap()
    }

    fn register(kind: &str, content: &str) -> Stanza {
        iq(
            kind,
            &format!("<query xmlns='jabber:iq:register'>{content}</query>"),
        )
    }

    fn stranger(kind: &str, content: &str) -> Result<BeforeLogin, Condition> {
        before_login(&register(kind, content), "shakespeare.lit", OPEN)
    }

    fn user(kind: &str, content: &str) -> Result<LoggedIn, Condition> {
        logged_in(&register(kind, content), &bill(), OPEN)
    }

    /// §3.1
    #[test]
    fn a_stranger_asks_for_the_form_and_fills_it_in() {
        assert_eq!(stranger("get", ""), Ok(BeforeLogin::Form));
        let form = form();
        assert!(form.child("username", NS).is_some());
        assert!(form.child("password", NS).is_some());
        assert!(form.child("registered", NS).is_none());

        let filled_in = "<username>Bill</username><password>Calliope</password>\
                         <email>bard@shakespeare.lit</email>";
        let Ok(BeforeLogin::Create { account, password }) = stranger("set", filled_in) else {
            panic!("no account");
        };
        assert_eq!(account, bill());
        assert_eq!(password.as_str(), "Calliope");
    }

    /// §3.1
    #[test]
    fn incomplete_registrations_are_not_acceptable() {
        for content in [
            "",
            "<username>bill</username>",
            "<username>bill</username><password/>",
            "<username>bill</username><password></password>",
            "<password>Calliope</password>",
            "<username/><password>Calliope</password>",
            "<username>bill@shakespeare.lit</username><password>Calliope</password>",
            "<username>b&lt;ll</username><password>Calliope</password>",
            "<username>bill</username><password>&#x9;</password>",
            &format!(
                "<username>bill</username><password>{}</password>",
                "p".repeat(1024)
            ),
        ] {
            assert_eq!(
                stranger("set", content),
                Err(Condition::NotAcceptable),
                "{content}"
            );
        }
    }

    #[test]
    fn strangers_get_nothing_where_registration_is_off_or_unsafe() {
        let content = "<username>bill</username><password>Calliope</password>";
        let off = Policy {
            registration: false,
            ..OPEN
        };
        for kind in ["get", "set"] {
            assert_eq!(
                before_login(&register(kind, content), "shakespeare.lit", off),
                Err(Condition::ServiceUnavailable)
            );
        }
        let plain = Policy {
            channel_is_safe: false,
            ..OPEN
        };
        assert_eq!(
            before_login(&register("set", content), "shakespeare.lit", plain),
            Err(Condition::NotAuthorized)
        );
        assert_eq!(
            stranger("set", "<remove/>"),
            Err(Condition::UnexpectedRequest)
        );
    }

    /// §3.1
    #[test]
    fn a_user_learns_that_the_account_is_registered() {
        assert_eq!(user("get", ""), Ok(LoggedIn::State));
        assert_eq!(
            registered(&bill()),
            element(
                "<query xmlns='jabber:iq:register'><registered/><username>bill</username>\
                 <password/></query>"
            )
        );
    }

    /// §3.2
    #[test]
    fn a_user_can_remove_the_account() {
        assert_eq!(user("set", "<remove/>"), Ok(LoggedIn::Remove));
        assert_eq!(
            user("set", "<remove/><username>bill</username>"),
            Err(Condition::BadRequest)
        );
    }

    /// §3.3
    #[test]
    fn a_user_can_change_the_password() {
        let Ok(LoggedIn::ChangePassword(password)) = user(
            "set",
            "<username>bill</username><password>newpass</password>",
        ) else {
            panic!("no change");
        };
        assert_eq!(password.as_str(), "newpass");
    }

    /// §3.3
    #[test]
    fn an_empty_password_changes_nothing() {
        for content in [
            "<username>bill</username><password/>",
            "<username>bill</username>",
            "<password>newpass</password>",
            "",
        ] {
            assert_eq!(
                user("set", content),
                Err(Condition::BadRequest),
                "{content}"
            );
        }
    }

    /// §3.1.1
    #[test]
    fn a_user_cannot_register_a_second_account() {
        let other = "<username>juliet</username><password>R0m30</password>";
        assert_eq!(user("set", other), Err(Condition::NotAcceptable));
    }

    /// §3.2, §3.3
    #[test]
    fn users_change_nothing_where_that_is_off_or_unsafe() {
        let change = "<username>bill</username><password>newpass</password>";
        let off = Policy {
            account_changes: false,
            ..OPEN
        };
        for content in [change, "<remove/>"] {
            assert_eq!(
                logged_in(&register("set", content), &bill(), off),
                Err(Condition::NotAllowed)
            );
        }
        assert_eq!(
            logged_in(&register("get", ""), &bill(), off),
            Ok(LoggedIn::State)
        );
        let plain = Policy {
            channel_is_safe: false,
            ..OPEN
        };
        assert_eq!(
            logged_in(&register("set", change), &bill(), plain),
            Err(Condition::NotAuthorized)
        );
        assert_eq!(
            logged_in(&register("set", "<remove/>"), &bill(), plain),
            Ok(LoggedIn::Remove)
        );
    }

    #[test]
    fn a_password_does_not_show_in_debug_output() {
        let request = stranger(
            "set",
            "<username>bill</username><password>Calliope</password>",
        );
        assert!(!format!("{request:?}").contains("Calliope"));
    }

    /// §8
    #[test]
    fn the_stream_feature_has_its_own_namespace() {
        assert_eq!(
            stream_feature(),
            element("<register xmlns='http://jabber.org/features/iq-register'/>")
        );
    }
}
