//! PLAIN (RFC 4616): user and password in one message. Offered under TLS only.

use rookery_proto::jid::BareJid;

use crate::password::Password;
use crate::sasl::{Condition, Failure};
use crate::scram::check_authzid;

/// The most octets that the user name may have; RFC 4616 §2 leaves the bound to servers, RFC 7622
/// §3.3 sets that of a localpart.
const MAX_USERNAME_LEN: usize = 1023;

/// What the client claims.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plain {
    /// Whom it wants to be.
    pub user: BareJid,
    /// To be checked by [`crate::password::verify_password`].
    pub password: Password,
}

impl Plain {
    /// Reads the message: `[authzid] NUL authcid NUL passwd`.
    ///
    /// # Errors
    /// `malformed-request` for bad syntax, `invalid-authzid` for somebody else's, `not-authorized`
    /// for a name that is no localpart.
    pub fn parse(message: &[u8], domain: &str) -> Result<Self, Failure> {
        let message = std::str::from_utf8(message).map_err(|_| Condition::MalformedRequest)?;
        let mut parts = message.split('\0');
        let (Some(authzid), Some(name), Some(password), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Condition::MalformedRequest.into());
        };
        if name.is_empty() || name.len() > MAX_USERNAME_LEN || password.is_empty() {
            return Err(Condition::MalformedRequest.into());
        }
        let user = BareJid::new(Some(name), domain).map_err(|_| Condition::NotAuthorized)?;
        check_authzid(Some(authzid).filter(|authzid| !authzid.is_empty()), &user)?;
        Ok(Self {
            user,
            password: Password::new(password),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(message: &[u8]) -> Result<(String, String), Condition> {
        Plain::parse(message, "localhost")
            .map(|plain| (plain.user.to_string(), plain.password.as_str().to_owned()))
            .map_err(|failure| failure.condition)
    }

    fn ann() -> (String, String) {
        ("ann@localhost".to_owned(), "secret".to_owned())
    }

    #[test]
    fn user_and_password_are_read() {
        assert_eq!(parse(b"\0ann\0secret"), Ok(ann()));
        assert_eq!(parse(b"\0Ann\0secret"), Ok(ann()));
        assert_eq!(parse(b"ann@localhost\0ann\0secret"), Ok(ann()));
        assert_eq!(
            parse("\0ann\0 s,=\u{e4}".as_bytes()).unwrap().1,
            " s,=\u{e4}"
        );
    }

    #[test]
    fn a_foreign_authzid_is_refused() {
        for authzid in [
            "bob@localhost",
            "ann",
            "ann@example.com",
            "ann@localhost/desk",
            "@",
        ] {
            let message = format!("{authzid}\0ann\0secret");
            assert_eq!(
                parse(message.as_bytes()),
                Err(Condition::InvalidAuthzid),
                "{authzid}"
            );
        }
    }

    #[test]
    fn malformed_messages_are_refused() {
        for bad in [
            &b""[..],
            b"ann",
            b"ann\0secret",
            b"\0ann\0",
            b"\0\0secret",
            b"\0ann\0secret\0",
            b"\0ann\0sec\0ret",
            b"\0ann\0\xff",
        ] {
            assert_eq!(parse(bad), Err(Condition::MalformedRequest), "{bad:?}");
        }
    }

    #[test]
    fn a_name_that_is_no_localpart_is_nobodys() {
        assert_eq!(
            parse(b"\0ann@localhost\0secret"),
            Err(Condition::NotAuthorized)
        );
        assert_eq!(parse(b"\0a b\0secret"), Err(Condition::NotAuthorized));
    }

    proptest::proptest! {
        #[test]
        fn any_message_is_taken_or_refused(text in "\\PC{0,10}\0\\PC{0,10}\0\\PC{0,10}", bytes: Vec<u8>) {
            let _ = parse(&bytes);
            if let Ok((_, password)) = parse(text.as_bytes()) {
                proptest::prop_assert!(text.ends_with(&password));
            }
        }
    }
}
