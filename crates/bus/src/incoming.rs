//! The frames of a batch that came in.

use std::sync::Arc;

use crate::Frame;
use crate::frame::{BatchError, Found, Place, find};

/// Frames from one node, in the order sent.
///
/// Those of the newest version are still to be read, one by one ([`Batch::find`]): a delivery best by the
/// thread that handles it.
#[derive(Debug, Default)]
pub struct Frames {
    /// Those of a version that is read as a whole; then there are no others.
    pub read: Vec<Frame>,
    /// Where the others are.
    pub batch: Batch,
    /// Their places there.
    pub places: Vec<Place>,
}

/// The octets of a batch, which clones share.
#[derive(Clone, Debug, Default)]
pub struct Batch(Arc<Vec<u8>>);

impl Frames {
    pub(crate) fn packed(batch: Vec<u8>, places: Vec<Place>) -> Self {
        Self {
            read: Vec::new(),
            batch: Batch(Arc::new(batch)),
            places,
        }
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.read.len() + self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// [`BatchError::Damaged`] if one cannot be read.
    pub fn read(self) -> Result<Vec<Frame>, BatchError> {
        let Self {
            mut read,
            batch,
            places,
        } = self;
        for place in places {
            read.push(match batch.find(place)? {
                Found::Delivery(delivery) => Frame::Deliver(delivery.read(|_| None, None)?),
                Found::Other(frame) => frame,
            });
        }
        Ok(read)
    }
}

impl From<Vec<Frame>> for Frames {
    fn from(read: Vec<Frame>) -> Self {
        Self {
            read,
            ..Self::default()
        }
    }
}

impl Batch {
    /// The frame at a place of this batch.
    ///
    /// # Errors
    /// [`BatchError::Damaged`] if it cannot be read.
    pub fn find(&self, place: Place) -> Result<Found<'_>, BatchError> {
        find(&self.0, place)
    }
}
