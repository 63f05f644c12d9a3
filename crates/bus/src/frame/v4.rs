//! Version 4 of the frames: each can be found without reading those before it, and what is sent most, a
//! delivery, is packed by hand, so that it can be read where it is handled.
//!
//! ```text
//! frame:    length of the rest (u32, little-endian) · 0 · delivery
//!           length of the rest (u32, little-endian) · 1 · frame as in version 3
//! delivery: switches · hops · [id of the entry (u64, little-endian)]
//!           · first session · number of others · the others · stanza (`proto/src/stanza/packed.rs`)
//! ```

use rookery_proto::jid::{BareJid, FullJid};
use rookery_proto::octets::{Octets, put_number, put_text};
use rookery_proto::stanza::Stanza;

use super::{BatchError, Deliver, Frame, Sessions};
use crate::Frames;
use crate::moved::LogRef;

const DELIVERY: u8 = 0;
const OTHER: u8 = 1;

/// Octets of the length.
const LENGTH: usize = 4;

const RESPONSIBLE: u8 = 1;
const COUNTS: u8 = 1 << 1;
const ENTRY: u8 = 1 << 2;
const ARCHIVED: u8 = 1 << 3;

/// Where a frame stands in its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    start: u32,
    end: u32,
}

/// A delivery, as yet unread but for its first session.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'b> {
    switches: u8,
    hops: u8,
    entry: u64,
    session: &'b str,
    rest: Octets<'b>,
}

pub(super) fn append(frame: &Frame, body: &mut Vec<u8>) -> usize {
    let start = body.len();
    body.extend_from_slice(&[0; LENGTH]);
    match frame {
        Frame::Deliver(deliver) if !deliver.to.is_empty() => {
            body.push(DELIVERY);
            pack(deliver, body);
        }
        frame => {
            body.push(OTHER);
            super::append(frame, body);
        }
    }
    let bytes = body.len() - start;
    // One that is longer is refused as too large.
    let length = u32::try_from(bytes - LENGTH).unwrap_or(u32::MAX);
    body[start..start + LENGTH].copy_from_slice(&length.to_le_bytes());
    bytes
}

fn pack(deliver: &Deliver, out: &mut Vec<u8>) {
    let Some((first, others)) = deliver.to.split_first() else {
        return;
    };
    let switch = |is_on, switch| if is_on { switch } else { 0 };
    out.push(
        switch(deliver.responsible, RESPONSIBLE)
            | switch(deliver.counts, COUNTS)
            | switch(deliver.entry.is_some(), ENTRY)
            | switch(deliver.entry.is_some_and(|entry| entry.archived), ARCHIVED),
    );
    out.push(deliver.hops);
    if let Some(entry) = deliver.entry {
        out.extend_from_slice(&entry.id.to_le_bytes());
    }
    put_text(out, first.as_str());
    put_number(out, others.len());
    for other in others {
        put_text(out, other.as_str());
    }
    deliver.stanza.pack(first, out);
}

/// Finds so many frames, from `body` on to the end of the batch. They are not read.
pub(super) fn read(batch: Vec<u8>, body: usize, frames: u64) -> Result<Frames, BatchError> {
    let frames = usize::try_from(frames).ok();
    let places = frames.and_then(|frames| places(&batch, body, frames));
    let places = places.ok_or_else(|| BatchError::Damaged("its length is another".to_owned()))?;
    Ok(Frames::packed(batch, places))
}

fn places(batch: &[u8], body: usize, frames: usize) -> Option<Vec<Place>> {
    // A frame has its length, at least.
    let mut places = Vec::with_capacity(frames.min(batch.len() / LENGTH));
    let mut rest = Octets::of(batch.get(body..)?);
    let mut start = body;
    for _ in 0..frames {
        let length = u32::from_le_bytes(rest.take(LENGTH)?.try_into().ok()?);
        rest.take(usize::try_from(length).ok()?)?;
        let from = u32::try_from(start + LENGTH).ok()?;
        let end = from.checked_add(length)?;
        places.push(Place { start: from, end });
        start = usize::try_from(end).ok()?;
    }
    rest.is_empty().then_some(places)
}

/// A frame in a batch.
#[derive(Debug)]
pub enum Found<'b> {
    /// A delivery that is still to be read.
    Delivery(Delivery<'b>),
    /// Any other frame.
    Other(Frame),
}

pub(crate) fn find(batch: &[u8], place: Place) -> Result<Found<'_>, BatchError> {
    let Place { start, end } = place;
    let bytes = batch.get(start as usize..end as usize).unwrap_or_default();
    match bytes.split_first() {
        Some((&DELIVERY, delivery)) => Delivery::of(delivery)
            .map(Found::Delivery)
            .ok_or_else(damaged),
        Some((&OTHER, frame)) => super::read_whole(frame).map(Found::Other),
        _ => Err(damaged()),
    }
}

impl<'b> Delivery<'b> {
    fn of(delivery: &'b [u8]) -> Option<Self> {
        let mut rest = Octets::of(delivery);
        let switches = rest.octet()?;
        let hops = rest.octet()?;
        let entry = if switches & ENTRY == 0 {
            0
        } else {
            u64::from_le_bytes(rest.take(8)?.try_into().ok()?)
        };
        Some(Self {
            switches,
            hops,
            entry,
            session: rest.text()?,
            rest,
        })
    }

    /// The address of the account that it is for.
    pub fn account(&self) -> &'b str {
        let session = self.session;
        session.split_once('/').map_or(session, |(bare, _)| bare)
    }

    /// Reads the rest. `known`: the session of that address, and its account, if they are at hand.
    ///
    /// # Errors
    /// [`BatchError::Damaged`]; never panics.
    pub fn read(
        self,
        known: impl Fn(&str) -> Option<FullJid>,
        account: Option<&BareJid>,
    ) -> Result<Deliver, BatchError> {
        self.try_read(known, account).ok_or_else(damaged)
    }

    fn try_read(
        self,
        known: impl Fn(&str) -> Option<FullJid>,
        account: Option<&BareJid>,
    ) -> Option<Deliver> {
        let Self {
            switches, mut rest, ..
        } = self;
        let session = |text: &str| known(text).or_else(|| FullJid::prepared(text).ok());
        let first = session(self.session)?;
        let mut to = Sessions::new();
        to.push(first.clone());
        for _ in 0..rest.number()? {
            to.push(session(rest.text()?)?);
        }
        let entry = (switches & ENTRY != 0).then_some(LogRef {
            id: self.entry,
            archived: switches & ARCHIVED != 0,
        });
        Some(Deliver {
            stanza: Stanza::unpack(rest, &first, account)?.into(),
            to,
            responsible: switches & RESPONSIBLE != 0,
            hops: self.hops,
            entry,
            counts: switches & COUNTS != 0,
        })
    }
}

fn damaged() -> BatchError {
    BatchError::Damaged("a frame makes no sense".to_owned())
}
