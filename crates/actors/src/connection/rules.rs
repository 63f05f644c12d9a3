//! What does not change between the streams of a node: the served domains, what is offered at each
//! step, limits. Made once per arbiter, in the form in which it is sent.

use rookery_features::sasl::{self, Mechanism};
use rookery_features::scram::{BindingKind, ChannelBinding};
use rookery_features::stream_features::{BeforeLogin, Starttls, StreamFeatures};
use rookery_features::xep0077_register;
use rookery_proto::jid::Jid;
use rookery_proto::stream::{Framing, Limits, StreamHeader};

use super::MAX_STANZA_BEFORE_LOGIN;
use crate::settings::{Settings, TlsPolicy};

/// The rules of client streams.
#[derive(Debug)]
pub(crate) struct Rules {
    domains: Vec<Jid>,
    tls: TlsPolicy,
    registration: bool,
    attempts: u32,
    /// Limits after login.
    limits: Limits,
    plain: Offered,
    secured: Offered,
    bindable: Offered,
    logged_in: Features,
}

/// What is offered before login at one level of security.
#[derive(Debug)]
pub(crate) struct Offered {
    /// The SASL mechanisms, strongest first.
    pub(crate) mechanisms: Vec<Mechanism>,
    features: Features,
}

/// `<stream:features/>` as it is sent.
#[derive(Debug)]
struct Features {
    tcp: String,
    websocket: String,
}

/// What protects a stream's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// Nothing.
    Plain,
    /// TLS, without channel binding data.
    Secured,
    /// TLS with channel binding data.
    Bindable,
}

impl Rules {
    /// The rules that follow from the settings. Domains and mechanisms that cannot be used are left
    /// out with a warning; the configuration's own checks find them before.
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut domains = Vec::new();
        for name in &settings.domains {
            match Jid::parse(name) {
                Ok(jid) if jid.local().is_none() && jid.resource().is_none() => {
                    domains.push(jid);
                }
                _ => tracing::warn!(domain = %name, "not a domain; it is not served"),
            }
        }
        let mut mechanisms = Vec::new();
        for name in &settings.auth.mechanisms {
            if let Some(mechanism) = Mechanism::parse(name) {
                mechanisms.push(mechanism);
            } else {
                tracing::warn!(mechanism = %name, "unknown SASL mechanism; not offered");
            }
        }
        let tls = settings.c2s.tls;
        let registration = settings.auth.registration;
        let offered = |security| Offered::new(security, tls, registration, &mechanisms);
        Self {
            domains,
            tls,
            registration,
            attempts: settings.auth.attempts_per_stream.max(1),
            limits: Limits {
                max_stanza_bytes: settings.c2s.max_stanza_bytes,
                max_depth: max_depth(settings),
            },
            plain: offered(Security::Plain),
            secured: offered(Security::Secured),
            bindable: offered(Security::Bindable),
            logged_in: Features::new(&StreamFeatures::after_login()),
        }
    }

    /// The served domain of this name.
    pub(crate) fn domain(&self, name: &str) -> Option<&Jid> {
        self.domains.iter().find(|jid| jid.domain() == name)
    }

    /// The domain that answers when the client has not named one that is served.
    pub(crate) fn default_domain(&self) -> Option<&Jid> {
        self.domains.first()
    }

    /// Whether a stream has to be encrypted before it may log in.
    pub(crate) fn requires_tls(&self) -> bool {
        self.tls == TlsPolicy::Required
    }

    /// Whether a TCP stream may become a TLS stream.
    pub(crate) fn offers_starttls(&self) -> bool {
        self.tls != TlsPolicy::Disabled
    }

    /// Whether a password may be sent on a stream of this security (XEP-0077 §3.1).
    pub(crate) fn registration(&self, security: Security) -> xep0077_register::Policy {
        let is_safe = security != Security::Plain || self.tls == TlsPolicy::Disabled;
        xep0077_register::Policy {
            registration: self.registration && (is_safe || !self.requires_tls()),
            account_changes: false,
            channel_is_safe: is_safe,
        }
    }

    /// Failed logins on one stream before it is closed (RFC 6120 §6.4.5).
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Limits of a stream that has not logged in.
    pub(crate) fn limits_before_login(&self) -> Limits {
        let max_stanza_bytes = MAX_STANZA_BEFORE_LOGIN.min(self.limits.max_stanza_bytes);
        Limits {
            max_stanza_bytes,
            ..self.limits
        }
    }

    /// Limits of a stream that has logged in.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// What is offered before login.
    pub(crate) fn offered(&self, security: Security) -> &Offered {
        match security {
            Security::Plain => &self.plain,
            Security::Secured => &self.secured,
            Security::Bindable => &self.bindable,
        }
    }

    /// `<stream:features/>` after login.
    pub(crate) fn features_after_login(&self, framing: Framing) -> &str {
        self.logged_in.on(framing)
    }
}

impl Offered {
    fn new(
        security: Security,
        tls: TlsPolicy,
        registration: bool,
        configured: &[Mechanism],
    ) -> Self {
        let is_secure = security != Security::Plain;
        let starttls = match (is_secure, tls) {
            (true, _) | (_, TlsPolicy::Disabled) => Starttls::None,
            (false, TlsPolicy::Optional) => Starttls::Optional,
            (false, TlsPolicy::Required) => Starttls::Required,
        };
        let has_binding = security == Security::Bindable;
        let mechanisms = if starttls == Starttls::Required {
            Vec::new()
        } else {
            sasl::offered(is_secure, has_binding, configured)
        };
        let bindings = if has_binding {
            vec![ChannelBinding {
                kind: BindingKind::TlsExporter,
                data: Vec::new(),
            }]
        } else {
            Vec::new()
        };
        let facts = |starttls| BeforeLogin {
            starttls,
            mechanisms: &mechanisms,
            channel_bindings: &bindings,
            registration,
        };
        let features = Features {
            tcp: StreamFeatures::before_login(&facts(starttls)).to_xml(Framing::Tcp),
            // There is no STARTTLS on a WebSocket (RFC 7395 §3.9).
            websocket: StreamFeatures::before_login(&facts(Starttls::None))
                .to_xml(Framing::WebSocket),
        };
        Self {
            mechanisms,
            features,
        }
    }

    /// `<stream:features/>` on such a stream.
    pub(crate) fn features(&self, framing: Framing) -> &str {
        self.features.on(framing)
    }
}

impl Features {
    fn new(features: &StreamFeatures) -> Self {
        Self {
            tcp: features.to_xml(Framing::Tcp),
            websocket: features.to_xml(Framing::WebSocket),
        }
    }

    fn on(&self, framing: Framing) -> &str {
        match framing {
            Framing::Tcp => &self.tcp,
            Framing::WebSocket => &self.websocket,
        }
    }
}

/// Our stream header (RFC 6120 §4.7), or `<open/>` (RFC 7395 §3.4).
pub(crate) fn header(from: Option<&Jid>, to: Option<Jid>, id: &str, framing: Framing) -> String {
    let header = StreamHeader {
        to,
        from: from.cloned(),
        version: rookery_proto::stream::Version::V1_0,
        lang: Some("en".into()),
        id: Some(id.into()),
    };
    match framing {
        Framing::Tcp => header.to_xml(),
        Framing::WebSocket => header.to_xml_ws(),
    }
}

fn max_depth(settings: &Settings) -> u16 {
    let depth = settings.c2s.max_depth.min(rookery_proto::xml::MAX_DEPTH);
    u16::try_from(depth).unwrap_or(u16::MAX)
}
