//! Memory of sessions that do nothing.

use rookery_tests::figures::{family, float, memory_kib};

use crate::crew::{Crew, ping};
use crate::{Load, Report};

/// Brings the sessions up and waits, since memory that logins needed is given back later.
pub(crate) fn run(load: &Load, crew: &Crew) -> Report {
    let server = family(load.process.expect("--process"));
    // What a server needs once, however many come, is not counted as a session's.
    drop(crew.bring_up(load, crew.deal(0..2)));
    let before = memory_kib(&server);
    let clients = crew.bring_up(load, crew.deal(0..load.accounts));
    crew.alone(async { tokio::time::sleep(load.time).await });
    let held = memory_kib(&server) - before;
    // Those whose stream has ended meanwhile were no idle sessions.
    let answered = crew.work(clients, async |mut clients| {
        for client in &mut clients {
            ping(client).await?;
        }
        Ok(())
    });
    Report {
        figures: serde_json::json!({
            "count": load.accounts,
            "kib_each": held / float(load.accounts),
            "mib_before": before / 1024.0,
        }),
        faults: answered.into_iter().filter_map(Result::err).collect(),
    }
}
