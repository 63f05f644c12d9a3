//! A cluster in which everything happens that metrics count in ordinary life.

use rookery_tests::http;
use rookery_tests::prelude::*;

const REGISTER: &str = "jabber:iq:register";

/// Two nodes and their users.
pub(crate) struct Load {
    /// The cluster.
    pub(crate) cluster: TestCluster,
    ann: Client,
    ben: Client,
    round: u32,
}

impl Load {
    /// Starts the cluster. Ann is at one node, Ben at the other.
    pub(crate) async fn start() -> Self {
        let cluster = TestCluster::with(2, &["registration.enabled=true"]).await;
        let ann = cluster.online(0, "ann/desk").await;
        let ben = cluster.online(1, "ben/desk").await;
        cluster.node(0).add_user("carol").await;
        Self {
            cluster,
            ann,
            ben,
            round: 0,
        }
    }

    /// One round of everything.
    pub(crate) async fn round(&mut self) {
        self.round += 1;
        self.chat().await;
        self.offline().await;
        self.logins().await;
        self.strangers().await;
        self.web().await;
    }

    /// Messages between nodes and on one, and a request to nobody.
    async fn chat(&mut self) {
        let mut local = self.cluster.online(0, "dora/desk").await;
        for number in 0..20 {
            let text = format!("{} {number}", self.round);
            self.ann.send(chat_to("ben@localhost", &text)).await;
            self.ben
                .expect(chat_from("ann@localhost/desk", &text))
                .await;
            self.ann.send(chat_to("dora@localhost", &text)).await;
            local.expect(chat_from("ann@localhost/desk", &text)).await;
        }
        self.ann
            .refused(
                get(Element::new("ping", PING)).with_attr("to", "nobody@localhost"),
                "service-unavailable",
            )
            .await;
        local.close().await;
    }

    /// A message that is stored and then delivered.
    async fn offline(&mut self) {
        self.ann.send(chat_to("carol@localhost", "later")).await;
        self.ann.handled_for("carol@localhost").await;
        let mut carol = self.cluster.online(1, "carol/desk").await;
        carol.expect(chat_from("ann@localhost/desk", "later")).await;
        carol.close().await;
    }

    /// Logins by each mechanism, and one with a wrong password.
    async fn logins(&self) {
        let node = self.cluster.node(0);
        for mechanism in [
            "SCRAM-SHA-256-PLUS",
            "SCRAM-SHA-256",
            "SCRAM-SHA-1-PLUS",
            "SCRAM-SHA-1",
            "PLAIN",
        ] {
            let login = node.login("dora").await.mechanism(mechanism);
            login.bind(node.address("c2s")).await.close().await;
        }
        let login = Login::new("dora", "wrong");
        let (mut wire, features) = login.connect(node.address("c2s")).await;
        let outcome = login.try_authenticate(&mut wire, &features).await;
        assert!(outcome.is("failure", SASL), "{outcome:?}");
    }

    /// A stream that is no XML, one that is no TLS, and somebody who registers.
    async fn strangers(&self) {
        let node = self.cluster.node(0);
        let mut wire = node.tcp().await;
        wire.open("localhost").await;
        wire.send("<one></other>").await;
        wire.expect_stream_error("not-well-formed").await;

        let mut wire = Wire::tcp(node.address("c2s_direct_tls")).await;
        // Closed by the server before all of it is sent, perhaps.
        let _ = wire.try_send(b"GET / HTTP/1.1\r\n\r\n").await;
        wire.expect_bytes_to_end().await;

        let login = Login::new("nobody", "");
        let (mut wire, _) = login.connect(node.address("c2s")).await;
        let fields = Element::new("query", REGISTER)
            .with_child(text("username", REGISTER, &format!("guest{}", self.round)))
            .with_child(text("password", REGISTER, "correct horse"));
        let request = set(fields).with_attr("id", "r").to_xml(CLIENT);
        // The second time the name is taken.
        for outcome in ["result", "error"] {
            let answer = wire.ask(&request).await;
            assert_eq!(answer.attr("type"), Some(outcome), "{answer:?}");
        }
    }

    /// HTTP, and a stream over a WebSocket.
    async fn web(&self) {
        let node = self.cluster.node(1);
        let answer = http::get(node.address("http"), "/.well-known/host-meta").await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            http::get(node.address("http"), "/nowhere").await.status,
            404
        );
        let web = node.bound_by("dora/web", Security::SecureWebSocket).await;
        web.close().await;
    }
}
