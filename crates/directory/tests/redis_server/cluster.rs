//! A Redis Cluster of three masters.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

use super::PATIENCE;
use super::free_port::free_port;
use super::sentinel::connect;
use super::tcp::TcpServer;
use super::tls::Certificates;

pub(crate) struct RedisCluster {
    pub(crate) masters: Vec<TcpServer>,
    tls: Option<Certificates>,
}

/// The first slots of the masters, and what comes after the last.
const SHARES: [u16; 4] = [0, 5461, 10923, 16384];

impl RedisCluster {
    pub(crate) async fn start(tls: Option<Certificates>) -> Self {
        let mut masters = Vec::new();
        let mut bus_ports = Vec::new();
        for _ in 0..3 {
            let bus_port = free_port();
            let arguments = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus_port.to_string(),
                "--cluster-node-timeout",
                "2000",
            ];
            masters.push(TcpServer::start(tls.as_ref(), &arguments).await);
            bus_ports.push(bus_port);
        }
        let cluster = Self { masters, tls };
        for at in 0..3 {
            let mut connection = cluster.connection(at).await;
            let () = redis::cmd("CLUSTER")
                .arg("ADDSLOTSRANGE")
                .arg(SHARES[at])
                .arg(SHARES[at + 1] - 1)
                .query_async(&mut connection)
                .await
                .expect("the slots are free");
            let () = redis::cmd("CLUSTER")
                .arg("SET-CONFIG-EPOCH")
                .arg(at + 1)
                .query_async(&mut connection)
                .await
                .expect("it is new");
        }
        let mut connection = cluster.connection(0).await;
        for (other, bus_port) in cluster.masters.iter().zip(bus_ports).skip(1) {
            let () = redis::cmd("CLUSTER")
                .arg("MEET")
                .arg("127.0.0.1")
                .arg(other.port)
                .arg(bus_port)
                .query_async(&mut connection)
                .await
                .expect("it can be met");
        }
        cluster.ready().await;
        cluster
    }

    /// Waits until all masters say that all is in order.
    pub(crate) async fn ready(&self) {
        let began = Instant::now();
        for at in 0..3 {
            let mut connection = self.connection(at).await;
            loop {
                let info: String = redis::cmd("CLUSTER")
                    .arg("INFO")
                    .query_async(&mut connection)
                    .await
                    .expect("it answers");
                if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") {
                    break;
                }
                assert!(began.elapsed() < 2 * PATIENCE, "no cluster: {info}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Kills all masters and starts them again, empty.
    pub(crate) async fn restart(&mut self) {
        for master in &mut self.masters {
            master.kill();
        }
        for master in &mut self.masters {
            master.restart().await;
        }
        self.ready().await;
    }

    /// The address, which also names a seed that is not there.
    pub(crate) fn url(&self) -> String {
        let (scheme, files) = match &self.tls {
            None => ("redis-cluster", String::new()),
            Some(tls) => ("rediss-cluster", format!("?{}", tls.parameters())),
        };
        let (one, two) = (self.masters[0].host(), self.masters[1].host());
        format!("{scheme}://127.0.0.1:1,{one},{two}{files}")
    }

    /// A connection to one of the masters.
    pub(crate) async fn connection(&self, master: usize) -> MultiplexedConnection {
        connect(&self.masters[master].host(), "", self.tls.as_ref()).await
    }

    /// A connection to the master that has a key.
    pub(crate) async fn owner(&self, key: &str) -> (usize, MultiplexedConnection) {
        let mut any = self.connection(0).await;
        let slot: u16 = redis::cmd("CLUSTER")
            .arg("KEYSLOT")
            .arg(key)
            .query_async(&mut any)
            .await
            .expect("it answers");
        let at = SHARES.iter().rposition(|first| *first <= slot).unwrap_or(0);
        (at, self.connection(at).await)
    }
}
