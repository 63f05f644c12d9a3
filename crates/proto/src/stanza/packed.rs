//! A stanza as one node packs it for another.
//!
//! ```text
//! kind · what there is · lengths of from, id, lang, extra · length of the content · children · texts
//! ```
//!
//! Both sides know the session that the stanza is for. The stanza's own `to` is that, or the account,
//! nearly always, and then only says which. A child is the place and the length of its name and then
//! where its namespace is: 0 `jabber:client`, 1 unclear, else two more than the length, and the place.

use std::sync::Arc;

use super::content::{ChildRef, Content, Index, Namespace};
use super::{IqType, Kind, MessageType, PresenceType, Stanza};
use crate::jid::{BareJid, FullJid, Jid};
use crate::octets::{Octets, put_number, put_text};

/// The stanza's `to`: none, the session, the account of the session, or another, whose text follows.
const TO: u8 = 0b11;
const TO_SESSION: u8 = 1;
const TO_ACCOUNT: u8 = 2;
const TO_OTHER: u8 = 3;
const FROM: u8 = 1 << 2;
const ID: u8 = 1 << 3;
const LANG: u8 = 1 << 4;
const EXTRA: u8 = 1 << 5;

const KINDS: [Kind; 17] = [
    Kind::Message(MessageType::Chat),
    Kind::Message(MessageType::Error),
    Kind::Message(MessageType::Groupchat),
    Kind::Message(MessageType::Headline),
    Kind::Message(MessageType::Normal),
    Kind::Presence(PresenceType::Available),
    Kind::Presence(PresenceType::Unavailable),
    Kind::Presence(PresenceType::Subscribe),
    Kind::Presence(PresenceType::Subscribed),
    Kind::Presence(PresenceType::Unsubscribe),
    Kind::Presence(PresenceType::Unsubscribed),
    Kind::Presence(PresenceType::Probe),
    Kind::Presence(PresenceType::Error),
    Kind::Iq(IqType::Get),
    Kind::Iq(IqType::Set),
    Kind::Iq(IqType::Result),
    Kind::Iq(IqType::Error),
];

/// The place of a kind in [`KINDS`].
fn number_of(kind: Kind) -> u8 {
    match kind {
        Kind::Message(kind) => kind as u8,
        Kind::Presence(kind) => 5 + kind as u8,
        Kind::Iq(kind) => 13 + kind as u8,
    }
}

impl Stanza {
    /// Appends the stanza, packed. `session`: whom it is for.
    pub fn pack(&self, session: &FullJid, out: &mut Vec<u8>) {
        let to = match &self.to {
            None => 0,
            Some(to) if to.as_str() == session.as_str() => TO_SESSION,
            Some(to) if to.as_str() == session.bare_str() => TO_ACCOUNT,
            Some(_) => TO_OTHER,
        };
        let extra = self.content.extra();
        let texts = [
            (FROM, self.from.as_ref().map(Jid::as_str)),
            (ID, self.id.as_deref()),
            (LANG, self.lang.as_deref()),
            (EXTRA, Some(extra).filter(|extra| !extra.is_empty())),
        ];
        let there = texts.iter().filter(|(_, text)| text.is_some());
        out.push(number_of(self.kind));
        out.push(there.fold(to, |there, (part, _)| there | part));
        if let (TO_OTHER, Some(to)) = (to, &self.to) {
            put_text(out, to.as_str());
        }
        for text in texts.iter().filter_map(|(_, text)| *text) {
            put_number(out, text.len());
        }
        let inner = self.content.inner();
        put_number(out, inner.len());
        self.content.pack_index(out);
        for text in texts.iter().filter_map(|(_, text)| *text) {
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(inner.as_bytes());
    }

    /// Reads what [`pack`](Self::pack) wrote for this session, to the end of the octets. `account`: the
    /// session's, if it is at hand.
    ///
    /// `None` if that makes no sense. The content is not looked at: the node that packed it has checked it.
    pub fn unpack(
        mut octets: Octets<'_>,
        session: &FullJid,
        account: Option<&BareJid>,
    ) -> Option<Self> {
        let kind = *KINDS.get(usize::from(octets.octet()?))?;
        let there = octets.octet()?;
        let to = match there & TO {
            TO_SESSION => Some(Jid::from(session)),
            TO_ACCOUNT => Some(match account {
                Some(account) if account.as_str() == session.bare_str() => Jid::from(account),
                _ => Jid::from(session.to_bare()),
            }),
            TO_OTHER => Some(Jid::parse(octets.text()?).ok()?),
            _ => None,
        };
        let mut length = |part| match there & part {
            0 => Some(0),
            _ => octets.number(),
        };
        let [from, id, lang, extra] = [length(FROM)?, length(ID)?, length(LANG)?, length(EXTRA)?];
        let inner = octets.number()?;
        let index = Content::unpack_index(&mut octets)?;
        let length = [id, lang, extra, inner]
            .into_iter()
            .try_fold(from, usize::checked_add)?;
        let texts = octets.text_of(length)?;
        if !octets.is_empty() {
            return None;
        }
        let (from, texts) = texts.split_at_checked(from)?;
        let (id, texts) = texts.split_at_checked(id)?;
        let (lang, texts) = texts.split_at_checked(lang)?;
        let (extra, inner) = texts.split_at_checked(extra)?;
        let is_there = |part| there & part != 0;
        let from = is_there(FROM).then(|| Jid::prepared(from)).transpose();
        Some(Self {
            kind,
            to,
            from: from.ok()?,
            id: is_there(ID).then(|| Arc::from(id)),
            lang: is_there(LANG).then(|| Arc::from(lang)),
            content: Content::new(extra.into(), inner.into(), index),
        })
    }
}

impl Content {
    fn pack_index(&self, out: &mut Vec<u8>) {
        let index = self.index();
        put_number(out, index.len());
        for ChildRef { name, ns } in index {
            put_number(out, name.0 as usize);
            put_number(out, name.1 as usize);
            match ns {
                Namespace::Client => out.push(0),
                Namespace::Unclear => out.push(1),
                Namespace::Declared(start, length) => {
                    put_number(out, *length as usize + 2);
                    put_number(out, *start as usize);
                }
            }
        }
    }

    fn unpack_index(octets: &mut Octets<'_>) -> Option<Index> {
        let mut place = || u32::try_from(octets.number()?).ok();
        let mut index = Index::new();
        for _ in 0..place()? {
            let name = (place()?, place()?);
            let ns = match place()? {
                0 => Namespace::Client,
                1 => Namespace::Unclear,
                length => Namespace::Declared(place()?, length - 2),
            };
            index.push(ChildRef { name, ns });
        }
        Some(index)
    }
}
