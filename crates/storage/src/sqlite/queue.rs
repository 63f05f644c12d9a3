//! A bounded queue from async callers to threads.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Instant,
};

use prometheus::IntGauge;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout_at,
};

use super::BACKEND;
use crate::{Error, metrics};

/// One thing to do, or the end.
enum Item<J> {
    Job(J, OwnedSemaphorePermit),
    Close(oneshot::Sender<()>),
}

/// The side that async callers push to.
pub(super) struct Queue<J> {
    sender: mpsc::Sender<Item<J>>,
    slots: Arc<Semaphore>,
    length: IntGauge,
}

/// The side that threads pull from.
pub(super) struct Jobs<J> {
    receiver: Mutex<mpsc::Receiver<Item<J>>>,
    length: IntGauge,
}

/// What a thread got.
pub(super) enum Next<J> {
    /// Something to do.
    Job(J),
    /// End, and drop this then.
    Close(Ended),
}

/// Whom to tell, by dropping it, that a thread ended; nobody if the queue was dropped unclosed.
pub(super) struct Ended(
    #[expect(dead_code, reason = "dropping it is what tells")] Option<oneshot::Sender<()>>,
);

/// A queue that holds `size` jobs.
pub(super) fn queue<J>(name: &str, size: usize) -> (Queue<J>, Jobs<J>) {
    let (sender, receiver) = mpsc::channel();
    let slots = Arc::new(Semaphore::new(size.clamp(1, Semaphore::MAX_PERMITS)));
    let length = metrics::QUEUE_LENGTH.with_label_values(&[BACKEND, name]);
    let jobs = Jobs {
        receiver: Mutex::new(receiver),
        length: length.clone(),
    };
    (
        Queue {
            sender,
            slots,
            length,
        },
        jobs,
    )
}

impl<J> fmt::Debug for Queue<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("free", &self.slots.available_permits())
            .finish_non_exhaustive()
    }
}

impl<J> Queue<J> {
    /// Puts a job at the end; waits while the queue is full, but not beyond `deadline`.
    ///
    /// # Errors
    /// `Unavailable` if there was no room, and once the queue is closed.
    pub(super) async fn push(&self, job: J, deadline: Instant) -> Result<(), Error> {
        let slot = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => timeout_at(deadline.into(), Arc::clone(&self.slots).acquire_owned())
                .await
                .map_err(|_| Error::unavailable("too many operations are waiting"))?
                .map_err(|_| closed())?,
        };
        self.length.inc();
        self.sender.send(Item::Job(job, slot)).map_err(|_| {
            self.length.dec();
            closed()
        })
    }

    /// Lets `threads` threads end after what is queued now, and waits for them.
    pub(super) async fn close(&self, threads: usize) {
        self.slots.close();
        let ends: Vec<_> = (0..threads)
            .map(|_| {
                let (ended, end) = oneshot::channel();
                // Fails when the threads have ended already.
                drop(self.sender.send(Item::Close(ended)));
                end
            })
            .collect();
        for end in ends {
            // Nothing is ever sent: the thread drops its side.
            let _: Result<(), _> = end.await;
        }
    }
}

impl<J> Jobs<J> {
    /// The next job; waits for it.
    pub(super) fn next(&self) -> Next<J> {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let item = receiver.recv();
        drop(receiver);
        match item {
            Ok(item) => self.took(item),
            Err(mpsc::RecvError) => Next::Close(Ended(None)),
        }
    }

    /// The next job if there is one.
    pub(super) fn try_next(&self) -> Option<Next<J>> {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let item = receiver.try_recv();
        drop(receiver);
        match item {
            Ok(item) => Some(self.took(item)),
            Err(mpsc::TryRecvError::Empty) => None,
            Err(mpsc::TryRecvError::Disconnected) => Some(Next::Close(Ended(None))),
        }
    }

    fn took(&self, item: Item<J>) -> Next<J> {
        match item {
            Item::Job(job, slot) => {
                drop(slot);
                self.length.dec();
                Next::Job(job)
            }
            Item::Close(ended) => Next::Close(Ended(Some(ended))),
        }
    }
}

impl<J> Drop for Jobs<J> {
    fn drop(&mut self) {
        // What was pushed while the queue closed is never done; it must not be counted for ever.
        while let Some(Next::Job(_)) = self.try_next() {}
    }
}

/// Waits for what a thread has to tell, but not beyond `deadline`.
pub(super) async fn answer<T>(
    op: &'static str,
    deadline: Instant,
    answered: oneshot::Receiver<Result<T, Error>>,
) -> Result<T, Error> {
    match timeout_at(deadline.into(), answered).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(closed()),
        Err(_) => Err(Error::Timeout(op)),
    }
}

/// The storage was closed.
fn closed() -> Error {
    Error::unavailable("it was closed, or the operation panicked")
}
