//! One authentication attempt (RFC 6120 §6.4), whatever the mechanism: bytes in, next step out.
//!
//! The owner of the stream sends what a [`Step`] says, and looks up or checks what it asks for. It
//! keeps time, counts attempts and talks to storage; nothing of that happens here.

use rookery_proto::credentials::Credentials;
use rookery_proto::jid::BareJid;

use crate::password::Password;
use crate::plain::Plain;
use crate::sasl::{Condition, Failure, Mechanism};
use crate::scram::{Offer, Scram};

/// An attempt under way.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Nothing from the client yet.
    Fresh,
    /// The user is known; [`Exchange::credentials`] is to be called.
    LookingUp(Box<Scram>),
    /// The challenge is out.
    Challenged(Box<Scram>),
    /// The attempt ended, or ends with what the caller finds out.
    Over,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send `<challenge/>`, then pass the `<response/>` to [`Exchange::respond`].
    Challenge(Vec<u8>),
    /// Read the user's credentials, or make some up, and pass them to [`Exchange::credentials`].
    LookUp(BareJid),
    /// Check the password ([`crate::password::verify_password`], slow), for an unknown user against
    /// made-up keys. Then send `<success/>` without data, or `not-authorized`.
    Verify {
        /// Whom the client wants to be.
        user: BareJid,
        /// What it says the password is.
        password: Password,
    },
    /// Send `<success/>` with the data; the stream is the user's.
    Success {
        /// Whom the client authenticated as.
        user: BareJid,
        /// What goes into `<success/>`.
        data: Vec<u8>,
    },
}

impl Exchange {
    /// Starts an attempt with the mechanism that `<auth/>` names.
    ///
    /// # Errors
    /// `encryption-required` for PLAIN where it would be offered under TLS, `invalid-mechanism` for
    /// any other that is not in `offered`.
    pub fn start(name: &str, offered: &[Mechanism], secure: bool) -> Result<Self, Failure> {
        match Mechanism::parse(name) {
            Some(mechanism) if offered.contains(&mechanism) => Ok(Self {
                mechanism,
                phase: Phase::Fresh,
            }),
            Some(Mechanism::Plain) if !secure => Err(Condition::EncryptionRequired.into()),
            _ => Err(Condition::InvalidMechanism.into()),
        }
    }

    /// The mechanism of this attempt.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Takes the initial response of `<auth/>`. Without one the client gets an empty challenge
    /// (RFC 4422 §3.3: in these mechanisms the client speaks first).
    ///
    /// `nonce`: [`crate::scram::NONCE_LEN`] fresh random octets, for the case that they are needed.
    ///
    /// # Errors
    /// As [`Exchange::respond`].
    pub fn initial(
        &mut self,
        response: Option<&[u8]>,
        domain: &str,
        offer: Offer<'_>,
        nonce: &[u8],
    ) -> Result<Step, Failure> {
        match response {
            None => Ok(Step::Challenge(Vec::new())),
            Some(response) => self.respond(response, domain, offer, nonce),
        }
    }

    /// Takes what the client sent.
    ///
    /// # Errors
    /// The attempt failed; send `<failure/>` and drop it.
    pub fn respond(
        &mut self,
        response: &[u8],
        domain: &str,
        offer: Offer<'_>,
        nonce: &[u8],
    ) -> Result<Step, Failure> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Fresh if self.mechanism == Mechanism::Plain => {
                let Plain { user, password } = Plain::parse(response, domain)?;
                Ok(Step::Verify { user, password })
            }
            Phase::Fresh => {
                let scram = Scram::start(self.mechanism, response, domain, offer, nonce)?;
                let user = scram.user().clone();
                self.phase = Phase::LookingUp(Box::new(scram));
                Ok(Step::LookUp(user))
            }
            Phase::Challenged(scram) => {
                let success = scram.finish(response)?;
                Ok(Step::Success {
                    user: success.user,
                    data: success.server_final,
                })
            }
            Phase::LookingUp(_) | Phase::Over => Err(Condition::MalformedRequest.into()),
        }
    }

    /// Takes the credentials that [`Step::LookUp`] asked for.
    ///
    /// # Errors
    /// `malformed-request` if none were asked for.
    pub fn credentials(&mut self, credentials: &Credentials) -> Result<Step, Failure> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::LookingUp(mut scram) => {
                let challenge = scram.challenge(credentials);
                self.phase = Phase::Challenged(scram);
                Ok(Step::Challenge(challenge))
            }
            _ => Err(Condition::MalformedRequest.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::password::made_up;

    const NONE: Offer<'_> = Offer {
        plus: false,
        bindings: &[],
    };

    fn exchange(name: &str) -> Exchange {
        Exchange::start(name, &[Mechanism::ScramSha256, Mechanism::Plain], true).unwrap()
    }

    fn ann() -> BareJid {
        BareJid::parse("ann@localhost").unwrap()
    }

    #[test]
    fn a_mechanism_that_was_not_offered_is_refused() {
        let start = |name, secure| {
            Exchange::start(name, &[Mechanism::ScramSha256], secure)
                .map(|exchange| exchange.mechanism())
                .map_err(|failure| failure.condition)
        };
        assert_eq!(start("SCRAM-SHA-256", true), Ok(Mechanism::ScramSha256));
        assert_eq!(start("SCRAM-SHA-1", true), Err(Condition::InvalidMechanism));
        assert_eq!(start("GSSAPI", true), Err(Condition::InvalidMechanism));
        assert_eq!(start("PLAIN", true), Err(Condition::InvalidMechanism));
        assert_eq!(start("PLAIN", false), Err(Condition::EncryptionRequired));
    }

    #[test]
    fn plain_asks_for_the_password_to_be_checked() {
        let mut exchange = exchange("PLAIN");
        let step = exchange.initial(Some(b"\0ann\0secret"), "localhost", NONE, &[]);
        assert_eq!(
            step,
            Ok(Step::Verify {
                user: ann(),
                password: Password::new("secret")
            })
        );
        let again = exchange.respond(b"\0ann\0secret", "localhost", NONE, &[]);
        assert_eq!(again, Err(Condition::MalformedRequest.into()));
    }

    #[test]
    fn a_client_without_an_initial_response_gets_an_empty_challenge() {
        let mut exchange = exchange("PLAIN");
        let step = exchange.initial(None, "localhost", NONE, &[]);
        assert_eq!(step, Ok(Step::Challenge(vec![])));
        let step = exchange.respond(b"\0ann\0secret", "localhost", NONE, &[]);
        assert!(matches!(step, Ok(Step::Verify { .. })));
    }

    #[test]
    fn scram_looks_the_user_up_and_challenges() {
        let mut exchange = exchange("SCRAM-SHA-256");
        let step = exchange.initial(Some(b"n,,n=ann,r=abc"), "localhost", NONE, &[0; 18]);
        assert_eq!(step, Ok(Step::LookUp(ann())));
        let keys = made_up(b"secret", &ann(), NonZeroU32::MIN);
        assert!(
            matches!(exchange.credentials(&keys), Ok(Step::Challenge(data)) if !data.is_empty())
        );
        let step = exchange.respond(b"c=biws,r=x,p=AAAA", "localhost", NONE, &[]);
        assert_eq!(step.unwrap_err().condition, Condition::NotAuthorized);
        let step = exchange.respond(b"c=biws,r=x,p=AAAA", "localhost", NONE, &[]);
        assert_eq!(
            step.unwrap_err().condition,
            Condition::MalformedRequest,
            "it is over"
        );
    }

    #[test]
    fn steps_out_of_order_are_refused() {
        let keys = made_up(b"secret", &ann(), NonZeroU32::MIN);
        assert!(exchange("SCRAM-SHA-256").credentials(&keys).is_err());
        let mut exchange = exchange("SCRAM-SHA-256");
        exchange
            .initial(Some(b"n,,n=ann,r=abc"), "localhost", NONE, &[0; 18])
            .unwrap();
        assert!(
            exchange
                .respond(b"n,,n=ann,r=abc", "localhost", NONE, &[0; 18])
                .is_err()
        );
    }
}
