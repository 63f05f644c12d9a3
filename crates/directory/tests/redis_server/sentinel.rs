//! A master, a replica, and Sentinels that watch them.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

use super::PATIENCE;
use super::tcp::TcpServer;
use super::tls::Certificates;

/// The name under which the Sentinels know the master.
pub(crate) const MASTER: &str = "mymaster";

pub(crate) struct Watched {
    pub(crate) master: TcpServer,
    pub(crate) replica: TcpServer,
    pub(crate) sentinels: Vec<TcpServer>,
    tls: Option<Certificates>,
}

impl Watched {
    /// `password`: of Redis; the Sentinels have another one, `sentinel-` and this.
    pub(crate) async fn start(tls: Option<Certificates>, password: &str) -> Self {
        let secret = ["--requirepass", password, "--masterauth", password];
        let master = TcpServer::start(tls.as_ref(), &secret).await;
        let port = master.port.to_string();
        let replica = [&secret[..], &["--replicaof", "127.0.0.1", &port]].concat();
        let replica = TcpServer::start(tls.as_ref(), &replica).await;
        // A Sentinel asks every 10 seconds, so all should be there when it asks first.
        let mut connection = connect(&replica.host(), password, tls.as_ref()).await;
        let began = Instant::now();
        loop {
            let info: String = redis::cmd("INFO")
                .arg("replication")
                .query_async(&mut connection)
                .await
                .expect("it answers");
            if info.contains("master_link_status:up") {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "no replica: {info}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // A majority of one is enough.
        let config = format!(
            "sentinel monitor {MASTER} 127.0.0.1 {port} 1\n\
             sentinel auth-pass {MASTER} {password}\n\
             sentinel down-after-milliseconds {MASTER} 400\n\
             sentinel failover-timeout {MASTER} 3000\n\
             requirepass sentinel-{password}\n"
        );
        let sentinels = vec![TcpServer::start_sentinel(tls.as_ref(), &config).await];
        let watched = Self {
            master,
            replica,
            sentinels,
            tls,
        };
        let mut sentinel = watched.sentinel(password).await;
        let began = Instant::now();
        while !watched.knows_its_replica(&mut sentinel).await {
            assert!(
                began.elapsed() < 2 * PATIENCE,
                "the sentinel finds no replica"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        watched
    }

    /// The address, which also names a Sentinel that is not there.
    pub(crate) fn url(&self, password: &str) -> String {
        let (scheme, files) = match &self.tls {
            None => ("redis-sentinel", String::new()),
            Some(tls) => ("rediss-sentinel", format!("&{}", tls.parameters())),
        };
        format!(
            "{scheme}://:{password}@127.0.0.1:1,{}/{MASTER}?sentinel_password=sentinel-{password}{files}",
            self.sentinels[0].host()
        )
    }

    /// A connection to the master as it was at the start.
    pub(crate) async fn master(&self, password: &str) -> MultiplexedConnection {
        connect(&self.master.host(), password, self.tls.as_ref()).await
    }

    async fn sentinel(&self, password: &str) -> MultiplexedConnection {
        let password = format!("sentinel-{password}");
        connect(&self.sentinels[0].host(), &password, self.tls.as_ref()).await
    }

    async fn knows_its_replica(&self, sentinel: &mut MultiplexedConnection) -> bool {
        let replicas: Vec<std::collections::HashMap<String, String>> = redis::cmd("SENTINEL")
            .arg("REPLICAS")
            .arg(MASTER)
            .query_async(sentinel)
            .await
            .expect("it answers");
        let port = self.replica.port.to_string();
        replicas.iter().any(|replica| {
            replica["port"] == port
                && replica["flags"] == "slave"
                && replica["master-link-status"] == "ok"
        })
    }
}

pub(crate) async fn connect(
    host: &str,
    password: &str,
    tls: Option<&Certificates>,
) -> MultiplexedConnection {
    let client = match tls {
        None => redis::Client::open(format!("redis://:{password}@{host}")),
        Some(tls) => {
            let url = format!("rediss://:{password}@{host}");
            redis::Client::build_with_tls(url, tls.for_client())
        }
    };
    let client = client.expect("the address is right");
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .expect("it runs")
}
