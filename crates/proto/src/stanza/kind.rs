//! The three kinds of stanza and their types.

use serde::{Deserialize, Serialize};

/// Kind and type of a stanza.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// `<message/>` (RFC 6121 §5).
    Message(MessageType),
    /// `<presence/>` (RFC 6121 §4).
    Presence(PresenceType),
    /// `<iq/>` (RFC 6120 §8.2.3).
    Iq(IqType),
}

/// Types of messages (RFC 6121 §5.2.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "RFC 6121 §5.2.2 explains them under these names"
)]
pub enum MessageType {
    Chat,
    Error,
    Groupchat,
    Headline,
    /// Also what an unknown type means.
    #[default]
    Normal,
}

/// Types of presence (RFC 6121 §4.7.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "RFC 6121 §4.7.1 explains them under these names"
)]
pub enum PresenceType {
    /// No type.
    #[default]
    Available,
    Unavailable,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
    Probe,
    Error,
}

/// Types of IQs (RFC 6120 §8.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "RFC 6120 §8.2.3 explains them under these names"
)]
pub enum IqType {
    Get,
    Set,
    Result,
    Error,
}

impl Kind {
    /// Name of the element.
    pub fn name(self) -> &'static str {
        match self {
            Self::Message(_) => "message",
            Self::Presence(_) => "presence",
            Self::Iq(_) => "iq",
        }
    }

    /// Value of the attribute `type`; `None` where it is left out.
    pub fn type_name(self) -> Option<&'static str> {
        match self {
            Self::Message(kind) => kind.as_str(),
            Self::Presence(kind) => kind.as_str(),
            Self::Iq(kind) => Some(kind.as_str()),
        }
    }

    /// Whether the type is `error`.
    pub fn is_error(self) -> bool {
        matches!(
            self,
            Self::Message(MessageType::Error)
                | Self::Presence(PresenceType::Error)
                | Self::Iq(IqType::Error)
        )
    }

    /// The kind of the error that answers this; `None` for what is never answered.
    pub fn error_reply(self) -> Option<Self> {
        match self {
            _ if self.is_error() => None,
            Self::Iq(IqType::Result) => None,
            Self::Iq(_) => Some(Self::Iq(IqType::Error)),
            Self::Message(_) => Some(Self::Message(MessageType::Error)),
            Self::Presence(_) => Some(Self::Presence(PresenceType::Error)),
        }
    }
}

impl MessageType {
    /// Value of the attribute `type`; `None` where it is left out.
    pub fn as_str(self) -> Option<&'static str> {
        Some(match self {
            Self::Chat => "chat",
            Self::Error => "error",
            Self::Groupchat => "groupchat",
            Self::Headline => "headline",
            Self::Normal => return None,
        })
    }

    /// Reads the attribute `type`. Absent and unknown ones mean `normal`.
    pub fn from_name(name: Option<&str>) -> Self {
        match name {
            Some("chat") => Self::Chat,
            Some("error") => Self::Error,
            Some("groupchat") => Self::Groupchat,
            Some("headline") => Self::Headline,
            _ => Self::Normal,
        }
    }
}

impl PresenceType {
    /// Value of the attribute `type`; `None` where it is left out.
    pub fn as_str(self) -> Option<&'static str> {
        Some(match self {
            Self::Available => return None,
            Self::Unavailable => "unavailable",
            Self::Subscribe => "subscribe",
            Self::Subscribed => "subscribed",
            Self::Unsubscribe => "unsubscribe",
            Self::Unsubscribed => "unsubscribed",
            Self::Probe => "probe",
            Self::Error => "error",
        })
    }

    /// Reads the attribute `type`. `None` for an unknown one.
    pub fn from_name(name: Option<&str>) -> Option<Self> {
        Some(match name {
            None => Self::Available,
            Some("unavailable") => Self::Unavailable,
            Some("subscribe") => Self::Subscribe,
            Some("subscribed") => Self::Subscribed,
            Some("unsubscribe") => Self::Unsubscribe,
            Some("unsubscribed") => Self::Unsubscribed,
            Some("probe") => Self::Probe,
            Some("error") => Self::Error,
            Some(_) => return None,
        })
    }
}

impl IqType {
    /// Value of the attribute `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::Result => "result",
            Self::Error => "error",
        }
    }

    /// Reads the attribute `type`. `None` for an unknown one.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "get" => Self::Get,
            "set" => Self::Set,
            "result" => Self::Result,
            "error" => Self::Error,
            _ => return None,
        })
    }
}
