//! An ordinary client library on one node.

use rookery_tests::prelude::*;
use rookery_tests::python::two_users;

#[tokio::test]
async fn two_slixmpp_clients_become_friends_and_chat() {
    let server = TestServer::start().await;
    two_users(&server, &server, false).await;
}

#[tokio::test]
async fn two_slixmpp_clients_do_so_over_direct_tls() {
    let server = TestServer::start().await;
    two_users(&server, &server, true).await;
}
