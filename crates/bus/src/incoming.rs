//! The frames of a batch that came in.

use std::sync::Arc;

use crate::Frame;
use crate::frame::{BatchError, Delivery, Found, Place, find};

/// Frames from one node, in the order sent. Deliveries among them are read later, by whoever handles them.
#[derive(Debug)]
pub struct Frames(Kind);

#[derive(Debug)]
enum Kind {
    /// Of a version that is read as a whole.
    Read(Vec<Frame>),
    Packed(Batch, Vec<Place>),
}

/// The octets of a batch, which clones share.
#[derive(Clone, Debug, Default)]
pub struct Batch(Arc<Vec<u8>>);

/// One of [`Frames`].
#[derive(Debug)]
pub enum Incoming {
    /// A delivery that is still to be read ([`Batch::delivery`]).
    Delivery(Place),
    /// Any other frame, or a delivery from a node that speaks an older version.
    Frame(Frame),
}

impl Frames {
    pub(crate) fn packed(batch: Vec<u8>, places: Vec<Place>) -> Self {
        Self(Kind::Packed(Batch(Arc::new(batch)), places))
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kind::Read(frames) => frames.len(),
            Kind::Packed(_, places) => places.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One after the other, and the batch that deliveries are read from. One that cannot be read is an error,
    /// and those behind it follow.
    pub fn take_apart(self) -> (Batch, impl Iterator<Item = Result<Incoming, BatchError>>) {
        let (batch, read, places) = match self.0 {
            Kind::Read(frames) => (Batch::default(), frames, Vec::new()),
            Kind::Packed(batch, places) => (batch, Vec::new(), places),
        };
        let from = batch.clone();
        let packed = places.into_iter().map(move |place| {
            Ok(match find(&from.0, place)? {
                Found::Delivery(_) => Incoming::Delivery(place),
                Found::Other(frame) => Incoming::Frame(frame),
            })
        });
        let read = read.into_iter().map(|frame| Ok(Incoming::Frame(frame)));
        (batch, read.chain(packed))
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// [`BatchError::Damaged`] if one cannot be read.
    pub fn read(self) -> Result<Vec<Frame>, BatchError> {
        let (batch, all) = self.take_apart();
        all.map(|incoming| match incoming? {
            Incoming::Frame(frame) => Ok(frame),
            Incoming::Delivery(place) => {
                let deliver = batch.delivery(place)?.read(|_| None, None)?;
                Ok(Frame::Deliver(deliver))
            }
        })
        .collect()
    }
}

impl From<Vec<Frame>> for Frames {
    fn from(frames: Vec<Frame>) -> Self {
        Self(Kind::Read(frames))
    }
}

impl Batch {
    /// The delivery at a place of this batch.
    ///
    /// # Errors
    /// [`BatchError::Damaged`] if there is none.
    pub fn delivery(&self, place: Place) -> Result<Delivery<'_>, BatchError> {
        match find(&self.0, place)? {
            Found::Delivery(delivery) => Ok(delivery),
            Found::Other(_) => Err(BatchError::Damaged("no delivery".to_owned())),
        }
    }
}
