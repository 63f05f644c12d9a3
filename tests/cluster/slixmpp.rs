//! An ordinary client library, its users on different nodes.

use rookery_tests::prelude::*;
use rookery_tests::python::two_users;

#[tokio::test]
async fn two_slixmpp_clients_on_different_nodes_become_friends_and_chat() {
    let cluster = TestCluster::start(2).await;
    two_users(cluster.node(0), cluster.node(1), false).await;
}
