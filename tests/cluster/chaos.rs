//! The short form of the chaos program: see `rookery_tests::chaos`, and `examples/chaos.rs` for the long one.

use rookery_tests::chaos::{Scenario, run};

/// Nodes, Redis, PostgreSQL and the links between them break and come back for more than a minute, and nodes are
/// upgraded; whatever was acknowledged is there, once.
#[tokio::test]
async fn a_minute_of_chaos_loses_nothing() {
    let report = run(&Scenario::default()).await;
    println!("{report}");
    let failures = report.failures();
    assert!(failures.is_empty(), "{failures:#?}");
}
