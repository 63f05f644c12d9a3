//! Threads that read, each with a connection of its own.

use std::{io, sync::Arc, thread, time::Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::queue::{Jobs, Next, Queue, answer, queue};
use crate::{Error, Options};

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// The reading threads' queue.
#[derive(Debug)]
pub(super) struct Readers {
    queue: Queue<Job>,
    threads: usize,
}

impl Readers {
    /// Starts a thread for each connection.
    pub(super) fn start(connections: Vec<Connection>, options: &Options) -> io::Result<Self> {
        let (queue, jobs) = queue("read", options.queue);
        let jobs = Arc::new(jobs);
        let threads = connections.len();
        for connection in connections {
            let jobs = Arc::clone(&jobs);
            thread::Builder::new()
                .name("rookery-read".to_owned())
                .spawn(move || read(connection, &jobs))?;
        }
        Ok(Self { queue, threads })
    }

    /// Runs `work` on the first thread that is free.
    pub(super) async fn run<T, F>(
        &self,
        op: &'static str,
        deadline: Instant,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let (sender, answered) = oneshot::channel();
        let job: Job = Box::new(move |db| {
            if !sender.is_closed() {
                // Fails when the caller stopped waiting meanwhile.
                drop(sender.send(work(db)));
            }
        });
        self.queue.push(job, deadline).await?;
        answer(op, deadline, answered).await
    }

    /// Ends the threads after what is queued.
    pub(super) async fn close(&self) {
        self.queue.close(self.threads).await;
    }
}

fn read(connection: Connection, jobs: &Jobs<Job>) {
    let ended = loop {
        match jobs.next() {
            Next::Job(job) => super::writer::unwind(|| job(&connection)).unwrap_or_default(),
            Next::Close(ended) => break ended,
        }
    };
    // Told once the file is closed: the writer's connection is to be the last one, as it folds the WAL.
    drop(connection);
    drop(ended);
}
