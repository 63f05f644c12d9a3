//! XEP-0133 Service Administration, version 1.3.1.
//!
//! Supported: adding, deleting, disabling and re-enabling users, ending sessions, changing passwords, last
//! logins, statistics of a user, numbers and lists of registered, disabled and online users,
//! announcements (§4.1 to §4.5, §4.7, §4.9, §4.10, §4.13 to §4.15, §4.18 to §4.20, §4.23), for the
//! accounts that the operator names.
//! Not supported: rosters, lists of what is blocked or allowed, messages of the day and
//! of welcome, active and idle users, the list of administrators, restart and shutdown; a client is told
//! `feature-not-implemented`.

use rookery_proto::error::{Condition, StanzaError};
use rookery_proto::xml::Element;

use crate::feature::Feature;
use crate::xep0004_data_forms::{NS as FORMS, Submission};
use crate::xep0050_commands::bad;

/// Listed in the README; what is announced are the commands, to administrators.
pub const FEATURE: Feature = Feature::partial(133, "1.3.1", &[]);

/// The `FORM_TYPE` of all forms, and what the nodes of commands begin with.
pub const NS: &str = "http://jabber.org/protocol/admin";

/// The most items of a list.
pub const MAX_ITEMS: usize = 200;

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "XEP-0133 §4 explains them under these names")]
pub enum Verb {
    AddUser,
    DeleteUser,
    DisableUser,
    ReEnableUser,
    EndUserSession,
    ChangeUserPassword,
    GetUserLastLogin,
    GetUserStatistics,
    GetRegisteredUsersNumber,
    GetDisabledUsersNumber,
    GetOnlineUsersNumber,
    GetRegisteredUsersList,
    GetDisabledUsersList,
    GetOnlineUsersList,
    Announce,
}

/// A command with all that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Make an account.
    AddUser {
        /// Its address, not checked.
        account: String,
        /// Its password.
        password: String,
    },
    /// Delete accounts.
    DeleteUsers(Vec<String>),
    /// Disable accounts, or enable them again.
    SetDisabled {
        /// Their addresses, not checked.
        accounts: Vec<String>,
        /// Whether they are disabled then.
        disabled: bool,
    },
    /// End all sessions of these accounts, or these sessions.
    EndSessions(Vec<String>),
    /// Change a password.
    ChangePassword {
        /// The account's address, not checked.
        account: String,
        /// The new password.
        password: String,
    },
    /// When these accounts were last here.
    LastLogin(Vec<String>),
    /// What is known of an account.
    Statistics(String),
    /// How many accounts there are.
    CountRegistered,
    /// How many accounts are disabled.
    CountDisabled,
    /// How many accounts have sessions.
    CountOnline,
    /// The first so many accounts.
    ListRegistered(usize),
    /// The first so many accounts that are disabled.
    ListDisabled(usize),
    /// The first so many accounts that have sessions.
    ListOnline(usize),
    /// Show a message to all who are online.
    Announce(String),
}

const ACCOUNT: (&str, &str, &str) = ("accountjid", "jid-single", "The account's address");
const ACCOUNTS: (&str, &str, &str) = ("accountjids", "jid-multi", "The accounts' addresses");
const PASSWORD: (&str, &str, &str) = ("password", "text-private", "The password");
const AGAIN: (&str, &str, &str) = ("password-verify", "text-private", "The password again");
const HOW_MANY: (&str, &str, &str) = ("max_items", "list-single", "How many to show");
const TEXT: (&str, &str, &str) = ("announcement", "text-multi", "The announcement");

impl Verb {
    /// All commands.
    pub const ALL: &[Self] = &[
        Self::AddUser,
        Self::DeleteUser,
        Self::DisableUser,
        Self::ReEnableUser,
        Self::EndUserSession,
        Self::ChangeUserPassword,
        Self::GetUserLastLogin,
        Self::GetUserStatistics,
        Self::GetRegisteredUsersNumber,
        Self::GetDisabledUsersNumber,
        Self::GetOnlineUsersNumber,
        Self::GetRegisteredUsersList,
        Self::GetDisabledUsersList,
        Self::GetOnlineUsersList,
        Self::Announce,
    ];

    /// The command of this node; `None` if there is none.
    pub fn of_node(node: &str) -> Option<Self> {
        let name = node.strip_prefix(NS)?.strip_prefix('#')?;
        Self::ALL.iter().find(|verb| verb.name() == name).copied()
    }

    /// Its name, which stands behind `#` in its node.
    pub fn name(self) -> &'static str {
        match self {
            Self::AddUser => "add-user",
            Self::DeleteUser => "delete-user",
            Self::DisableUser => "disable-user",
            Self::ReEnableUser => "reenable-user",
            Self::EndUserSession => "end-user-session",
            Self::ChangeUserPassword => "change-user-password",
            Self::GetUserLastLogin => "get-user-lastlogin",
            Self::GetUserStatistics => "user-stats",
            Self::GetRegisteredUsersNumber => "get-registered-users-num",
            Self::GetDisabledUsersNumber => "get-disabled-users-num",
            Self::GetOnlineUsersNumber => "get-online-users-num",
            Self::GetRegisteredUsersList => "get-registered-users-list",
            Self::GetDisabledUsersList => "get-disabled-users-list",
            Self::GetOnlineUsersList => "get-online-users-list",
            Self::Announce => "announce",
        }
    }

    /// Its node.
    pub fn node(self) -> String {
        format!("{NS}#{}", self.name())
    }

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::AddUser => "Add User",
            Self::DeleteUser => "Delete User",
            Self::DisableUser => "Disable User",
            Self::ReEnableUser => "Re-Enable User",
            Self::EndUserSession => "End User Session",
            Self::ChangeUserPassword => "Change User Password",
            Self::GetUserLastLogin => "Get User Last Login Time",
            Self::GetUserStatistics => "Get User Statistics",
            Self::GetRegisteredUsersNumber => "Get Number of Registered Users",
            Self::GetDisabledUsersNumber => "Get Number of Disabled Users",
            Self::GetOnlineUsersNumber => "Get Number of Online Users",
            Self::GetRegisteredUsersList => "Get List of Registered Users",
            Self::GetDisabledUsersList => "Get List of Disabled Users",
            Self::GetOnlineUsersList => "Get List of Online Users",
            Self::Announce => "Send Announcement to Online Users",
        }
    }

    /// The fields that have to be filled in; none if it runs at once.
    fn fields(self) -> &'static [(&'static str, &'static str, &'static str)] {
        match self {
            Self::AddUser => &[ACCOUNT, PASSWORD, AGAIN],
            Self::DeleteUser
            | Self::DisableUser
            | Self::ReEnableUser
            | Self::EndUserSession
            | Self::GetUserLastLogin => &[ACCOUNTS],
            Self::ChangeUserPassword => &[ACCOUNT, PASSWORD],
            Self::GetUserStatistics => &[ACCOUNT],
            Self::GetRegisteredUsersNumber
            | Self::GetDisabledUsersNumber
            | Self::GetOnlineUsersNumber => &[],
            Self::GetRegisteredUsersList
            | Self::GetDisabledUsersList
            | Self::GetOnlineUsersList => &[HOW_MANY],
            Self::Announce => &[TEXT],
        }
    }

    /// The form to fill in; `None` if it runs at once.
    pub fn form(self) -> Option<Element> {
        let fields = self.fields();
        if fields.is_empty() {
            return None;
        }
        let mut form = Element::new("x", FORMS)
            .with_attr("type", "form")
            .with_child(Element::new("title", FORMS).with_text(self.title()))
            .with_child(about());
        for &(name, kind, label) in fields {
            let mut field = Element::new("field", FORMS)
                .with_attr("label", label)
                .with_attr("type", kind)
                .with_attr("var", name);
            if kind == "list-single" {
                field.push(value("25"));
                for number in ["25", "50", "100", "200"] {
                    let option = Element::new("option", FORMS).with_attr("label", number);
                    field.push(option.with_child(value(number)));
                }
            } else {
                field.push(Element::new("required", FORMS));
            }
            form.push(field);
        }
        Some(form)
    }

    /// Reads what was filled in; `None` if a form is needed and there is none.
    ///
    /// # Errors
    /// `bad-payload` (XEP-0050 §3.4) for what is no such form; `not-acceptable`, naming the field, for
    /// what is missing in it or does not fit.
    pub fn order(self, command: &Element) -> Result<Option<Order>, StanzaError> {
        let submitted = Submission::parse(command, NS).map_err(|_| bad("bad-payload"))?;
        if submitted.is_none() && !self.fields().is_empty() {
            return Ok(None);
        }
        let values = |name: &str| -> Vec<String> {
            let fields = submitted.iter().flat_map(Submission::fields);
            let found = fields.filter(|field| field.name == name);
            found.flat_map(|field| field.values.to_vec()).collect()
        };
        let some = |name: &str| match values(name) {
            none if none.is_empty() => Err(unfit(name, "this field is missing")),
            values => Ok(values),
        };
        let one = |name: &str| match &some(name)?[..] {
            [value] => Ok(value.clone()),
            _ => Err(unfit(name, "only one value is allowed")),
        };
        let how_many = || match one(HOW_MANY.0)?.parse() {
            Ok(number) if (1..=MAX_ITEMS).contains(&number) => Ok(number),
            _ => Err(unfit(HOW_MANY.0, "a number from 1 to 200")),
        };
        Ok(Some(match self {
            Self::AddUser => {
                let password = one(PASSWORD.0)?;
                if values(AGAIN.0) != [password.as_str()] {
                    return Err(unfit(AGAIN.0, "the passwords are not the same"));
                }
                let account = one(ACCOUNT.0)?;
                Order::AddUser { account, password }
            }
            Self::DeleteUser => Order::DeleteUsers(some(ACCOUNTS.0)?),
            Self::DisableUser | Self::ReEnableUser => Order::SetDisabled {
                accounts: some(ACCOUNTS.0)?,
                disabled: self == Self::DisableUser,
            },
            Self::EndUserSession => Order::EndSessions(some(ACCOUNTS.0)?),
            Self::ChangeUserPassword => Order::ChangePassword {
                account: one(ACCOUNT.0)?,
                password: one(PASSWORD.0)?,
            },
            Self::GetUserLastLogin => Order::LastLogin(some(ACCOUNTS.0)?),
            Self::GetUserStatistics => Order::Statistics(one(ACCOUNT.0)?),
            Self::GetRegisteredUsersNumber => Order::CountRegistered,
            Self::GetDisabledUsersNumber => Order::CountDisabled,
            Self::GetOnlineUsersNumber => Order::CountOnline,
            Self::GetRegisteredUsersList => Order::ListRegistered(how_many()?),
            Self::GetDisabledUsersList => Order::ListDisabled(how_many()?),
            Self::GetOnlineUsersList => Order::ListOnline(how_many()?),
            Self::Announce => Order::Announce(some(TEXT.0)?.join("\n")),
        }))
    }
}

/// `not-acceptable` that names a field.
pub fn unfit(field: &str, why: &str) -> StanzaError {
    StanzaError::new(Condition::NotAcceptable).with_text(format!("{field}: {why}"))
}

/// What a command tells: fields with their values.
pub fn result(fields: &[(&str, Vec<String>)]) -> Element {
    let fields = fields.iter().map(|(name, values)| {
        Element::new("field", FORMS)
            .with_attr("var", name)
            .with_children(values.iter().map(|text| value(text)))
    });
    Element::new("x", FORMS)
        .with_attr("type", "result")
        .with_child(about())
        .with_children(fields)
}

fn about() -> Element {
    Element::new("field", FORMS)
        .with_attr("type", "hidden")
        .with_attr("var", "FORM_TYPE")
        .with_child(value(NS))
}

fn value(text: &str) -> Element {
    Element::new("value", FORMS).with_text(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::element;

    fn order(verb: Verb, fields: &[(&str, &[&str])]) -> Result<Option<Order>, StanzaError> {
        let owned: Vec<_> = fields
            .iter()
            .map(|(name, values)| (*name, values.iter().map(ToString::to_string).collect()))
            .collect();
        let mut form = result(&owned);
        form.set_attr("type", "submit");
        verb.order(&Element::new("command", "urn:x").with_child(form))
    }

    #[test]
    fn each_command_has_its_node_and_asks_for_what_it_needs() {
        for verb in Verb::ALL {
            assert_eq!(Verb::of_node(&verb.node()), Some(*verb));
            let without = verb.order(&element("<command xmlns='urn:x'/>")).unwrap();
            assert_eq!(without.is_none(), verb.form().is_some(), "{verb:?}");
            if verb.form().is_some() {
                let error = order(*verb, &[]).unwrap_err();
                assert_eq!(error.condition, Condition::NotAcceptable, "{verb:?}");
            }
        }
        for node in ["", "add-user", "http://jabber.org/protocol/admin#restart"] {
            assert_eq!(Verb::of_node(node), None);
        }
    }

    /// §4.1
    #[test]
    fn a_user_is_added_with_a_password_that_was_typed_twice() {
        let fields = |again| -> [(&str, &[&str]); 3] {
            [
                ("accountjid", &["ann@localhost"]),
                ("password", &["secret"]),
                ("password-verify", again),
            ]
        };
        let added = order(Verb::AddUser, &fields(&["secret"])).unwrap();
        let account = "ann@localhost".to_owned();
        let password = "secret".to_owned();
        assert_eq!(added, Some(Order::AddUser { account, password }));
        for other in [&["Secret"][..], &[]] {
            let error = order(Verb::AddUser, &fields(other)).unwrap_err();
            let text = error.text.unwrap();
            assert!(text.starts_with("password-verify: "), "{text}");
        }
    }

    #[test]
    fn values_are_checked() {
        let both: &[&str] = &["a@localhost", "b@localhost"];
        assert_eq!(
            order(Verb::DeleteUser, &[("accountjids", both)]),
            Ok(Some(Order::DeleteUsers(
                both.iter().map(ToString::to_string).collect()
            )))
        );
        for (verb, disabled) in [(Verb::DisableUser, true), (Verb::ReEnableUser, false)] {
            let accounts = both.iter().map(ToString::to_string).collect();
            assert_eq!(
                order(verb, &[("accountjids", both)]),
                Ok(Some(Order::SetDisabled { accounts, disabled }))
            );
        }
        assert!(order(Verb::GetUserStatistics, &[("accountjid", both)]).is_err());
        let list = |number: &str| order(Verb::GetOnlineUsersList, &[("max_items", &[number])]);
        assert_eq!(list("25"), Ok(Some(Order::ListOnline(25))));
        for number in ["0", "201", "none", "-1"] {
            assert!(list(number).is_err(), "{number}");
        }
        assert_eq!(
            order(Verb::Announce, &[("announcement", &["one", "two"])]),
            Ok(Some(Order::Announce("one\ntwo".into())))
        );
        let other = element(&format!(
            "<c xmlns='urn:x'><x xmlns='{FORMS}' type='form'/></c>"
        ));
        assert_eq!(Verb::Announce.order(&other), Err(bad("bad-payload")));
    }

    #[test]
    fn forms_say_what_is_required() {
        let form = Verb::ChangeUserPassword.form().unwrap();
        assert_eq!(
            form.to_xml(""),
            "<x xmlns='jabber:x:data' type='form'><title>Change User Password</title>\
             <field type='hidden' var='FORM_TYPE'>\
             <value>http://jabber.org/protocol/admin</value></field>\
             <field label='The account&apos;s address' type='jid-single' var='accountjid'><required/></field>\
             <field label='The password' type='text-private' var='password'><required/></field></x>"
        );
    }
}
