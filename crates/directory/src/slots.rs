//! Redis Cluster: one connection to each master, and which of them has which key.
//!
//! Keys live in 16,384 slots, which the masters share. What is asked of the wrong master it answers
//! with the right one: `MOVED` for good, `ASK` while the slot is on its way. A master that is gone
//! breaks the whole connection; the [`Link`](crate::Link) makes a new one, with the slots as they
//! are then.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{
    Arg, AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind,
    Value,
};

use crate::dialer::{Dialer, Host};

const SLOTS: usize = 16384;
/// How often one command follows a redirection.
const REDIRECTIONS: usize = 5;

/// Connections to all masters of a cluster.
#[derive(Clone)]
pub(crate) struct SlotConnection {
    shared: Arc<Shared>,
}

struct Shared {
    dialer: Dialer,
    config: AsyncConnectionConfig,
    map: RwLock<Map>,
}

struct Map {
    masters: Vec<Master>,
    /// The master of each slot.
    slots: Vec<u16>,
}

struct Master {
    host: Host,
    connection: MultiplexedConnection,
}

/// A command that has no answer yet.
#[derive(Clone, Copy)]
struct Pending {
    command: usize,
    master: u16,
    /// The slot is on its way to this master.
    asking: bool,
}

/// Where an answer sends a command.
struct Redirection {
    slot: u16,
    host: Host,
    moved: bool,
}

impl SlotConnection {
    /// Asks one node for all others and connects to them.
    pub(crate) async fn open(
        dialer: Dialer,
        seed: &Host,
        config: AsyncConnectionConfig,
    ) -> RedisResult<Self> {
        // Without the push channel: this one is dropped in a moment.
        let timeout = AsyncConnectionConfig::new();
        let mut connection = dialer.dial(seed, &timeout).await?;
        let info: String = redis::cmd("CLUSTER")
            .arg("INFO")
            .query_async(&mut connection)
            .await?;
        if !info.lines().any(|line| line.trim() == "cluster_state:ok") {
            return Err(down("the cluster is not in order"));
        }
        let slots: Value = redis::cmd("CLUSTER")
            .arg("SLOTS")
            .query_async(&mut connection)
            .await?;
        let (hosts, slots) = read_slots(slots, seed)?;
        let dial = async |host: Host| {
            let connection = dialer.dial(&host, &config).await?;
            Ok(Master { host, connection })
        };
        let masters: RedisResult<Vec<Master>> = join_all(hosts.into_iter().map(dial))
            .await
            .into_iter()
            .collect();
        let map = Map {
            masters: masters?,
            slots,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                dialer,
                config,
                map: RwLock::new(map),
            }),
        })
    }

    /// One connection for each master.
    pub(crate) fn masters(&self) -> Vec<MultiplexedConnection> {
        let map = self.map();
        map.masters.iter().map(|m| m.connection.clone()).collect()
    }

    /// Runs commands, those on the same slot in their order. The answers, in the order of the
    /// commands, may be errors of the server.
    pub(crate) async fn run(&self, commands: &[&Cmd]) -> RedisResult<Vec<Value>> {
        let mut answers = vec![Value::Nil; commands.len()];
        let mut pending = self.place(commands);
        for _ in 0..=REDIRECTIONS {
            let mut redirected = Vec::new();
            for (sent, values) in self.send(commands, &pending).await? {
                for (was, value) in sent.into_iter().zip(values) {
                    let host = self.host(was.master);
                    match redirection(&value, host) {
                        None => answers[was.command] = value,
                        Some(to) => {
                            answers[was.command] = value;
                            redirected.push((was.command, to));
                        }
                    }
                }
            }
            if redirected.is_empty() {
                break;
            }
            redirected.sort_by_key(|(command, _)| *command);
            pending.clear();
            for (command, to) in redirected {
                let master = self.follow(&to).await?;
                pending.push(Pending {
                    command,
                    master,
                    asking: !to.moved,
                });
            }
        }
        Ok(answers)
    }

    /// Which master each command is for.
    fn place(&self, commands: &[&Cmd]) -> Vec<Pending> {
        let map = self.map();
        let master = |command: &Cmd| key(command).map_or(0, |key| map.slots[slot(key)]);
        let place = |(command, cmd): (usize, &&Cmd)| Pending {
            command,
            master: master(cmd),
            asking: false,
        };
        commands.iter().enumerate().map(place).collect()
    }

    /// Sends each master what is for it.
    async fn send(
        &self,
        commands: &[&Cmd],
        pending: &[Pending],
    ) -> RedisResult<Vec<(Vec<Pending>, Vec<Value>)>> {
        let mut by_master: BTreeMap<u16, Vec<Pending>> = BTreeMap::new();
        for &one in pending {
            by_master.entry(one.master).or_default().push(one);
        }
        let send = async |(master, sent): (u16, Vec<Pending>)| {
            let mut pipeline = Pipeline::with_capacity(sent.len());
            for one in &sent {
                if one.asking {
                    pipeline.cmd("ASKING");
                }
                pipeline.add_command(commands[one.command].clone());
            }
            let mut connection = self.connection(master);
            let length = pipeline.len();
            let values = connection
                .send_packed_commands(&pipeline, 0, length)
                .await?;
            Ok((sent.clone(), without_asking(&sent, values)))
        };
        let all = join_all(by_master.into_iter().map(send)).await;
        all.into_iter().collect()
    }

    /// The master that a redirection names, which may be new.
    async fn follow(&self, to: &Redirection) -> RedisResult<u16> {
        let known = |map: &Map| map.masters.iter().position(|master| master.host == to.host);
        let at = known(&self.map());
        let connection = match at {
            Some(_) => None,
            None => Some(
                self.shared
                    .dialer
                    .dial(&to.host, &self.shared.config)
                    .await?,
            ),
        };
        let mut map = self.map_mut();
        let at = match (known(&map), connection) {
            (Some(at), _) => at,
            (None, Some(connection)) => {
                map.masters.push(Master {
                    host: to.host.clone(),
                    connection,
                });
                map.masters.len() - 1
            }
            (None, None) => return Err(down("a master disappeared")),
        };
        let at = u16::try_from(at).map_err(|_| down("there are too many masters"))?;
        if to.moved {
            map.slots[usize::from(to.slot) % SLOTS] = at;
        }
        Ok(at)
    }

    fn connection(&self, master: u16) -> MultiplexedConnection {
        self.map().masters[usize::from(master)].connection.clone()
    }

    fn host(&self, master: u16) -> Host {
        self.map().masters[usize::from(master)].host.clone()
    }

    fn map(&self) -> RwLockReadGuard<'_, Map> {
        self.shared
            .map
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> RwLockWriteGuard<'_, Map> {
        self.shared
            .map
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn down(reason: &'static str) -> RedisError {
    (ErrorKind::Server(ServerErrorKind::ClusterDown), reason).into()
}

/// The answers to the commands themselves.
fn without_asking(sent: &[Pending], values: Vec<Value>) -> Vec<Value> {
    let mut values = values.into_iter();
    let answer = |one: &Pending| {
        if one.asking {
            values.next();
        }
        values.next().unwrap_or(Value::Nil)
    };
    sent.iter().map(answer).collect()
}

/// Reads an answer that names another master. `by`: who gave it.
fn redirection(answer: &Value, by: Host) -> Option<Redirection> {
    let Value::ServerError(error) = answer else {
        return None;
    };
    let moved = match error.kind() {
        Some(ServerErrorKind::Moved) => true,
        Some(ServerErrorKind::Ask) => false,
        _ => return None,
    };
    // `3999 127.0.0.1:6381`
    let (slot, address) = error.details()?.split_once(' ')?;
    let (name, port) = address.trim().rsplit_once(':')?;
    let name = match name {
        "" => by.name,
        name => name.trim_matches(['[', ']']).to_owned(),
    };
    Some(Redirection {
        slot: slot.parse().ok()?,
        host: Host {
            name,
            port: port.parse().ok()?,
        },
        moved,
    })
}

/// Reads the answer to `CLUSTER SLOTS`: the masters, and which one has each slot.
fn read_slots(answer: Value, seed: &Host) -> RedisResult<(Vec<Host>, Vec<u16>)> {
    let mut hosts: Vec<Host> = Vec::new();
    let mut slots = vec![u16::MAX; SLOTS];
    let Value::Array(ranges) = answer else {
        return Err(down("the answer to CLUSTER SLOTS cannot be read"));
    };
    for range in &ranges {
        let read = read_range(range, seed);
        let (from, to, host) = read.ok_or_else(|| down("CLUSTER SLOTS names no address"))?;
        let known = hosts.iter().position(|known| *known == host);
        let at = known.unwrap_or_else(|| {
            hosts.push(host);
            hosts.len() - 1
        });
        let at = u16::try_from(at).map_err(|_| down("there are too many masters"))?;
        slots[from..=to].fill(at);
    }
    if slots.contains(&u16::MAX) {
        return Err(down("some slots have no master"));
    }
    Ok((hosts, slots))
}

/// First slot, last slot, master, replicas.
fn read_range(range: &Value, seed: &Host) -> Option<(usize, usize, Host)> {
    let Value::Array(range) = range else {
        return None;
    };
    let [Value::Int(from), Value::Int(to), Value::Array(master), ..] = range.as_slice() else {
        return None;
    };
    let [name, Value::Int(port), ..] = master.as_slice() else {
        return None;
    };
    let name = match name {
        Value::BulkString(name) => String::from_utf8(name.clone()).ok()?,
        Value::SimpleString(name) => name.clone(),
        // It does not know by which address it is reached: by the one that was used.
        Value::Nil => String::new(),
        _ => return None,
    };
    let name = match name.as_str() {
        "" => seed.name.clone(),
        "?" => return None,
        _ => name,
    };
    let (from, to) = (usize::try_from(*from).ok()?, usize::try_from(*to).ok()?);
    let port = u16::try_from(*port).ok()?;
    (from <= to && to < SLOTS).then_some((from, to, Host { name, port }))
}

/// Whether two commands run in their order when they are sent at the same time.
pub(crate) fn same_slot(one: &Cmd, other: &Cmd) -> bool {
    match (key(one), key(other)) {
        (Some(one), Some(other)) => slot(one) == slot(other),
        _ => false,
    }
}

/// The key that says where a command belongs; `None` if any master will do.
fn key(command: &Cmd) -> Option<&[u8]> {
    let mut arguments = command.args_iter().filter_map(|argument| match argument {
        Arg::Simple(bytes) => Some(bytes),
        _ => None,
    });
    match arguments.next()? {
        b"PUBLISH" | b"SCRIPT" | b"PING" => None,
        b"EVALSHA" => arguments.nth(2),
        b"XREAD" => arguments.skip_while(|a| *a != b"STREAMS").nth(1),
        _ => arguments.next(),
    }
}

/// The slot of a key, or of its hash tag: what stands between the first `{` and the next `}`.
fn slot(key: &[u8]) -> usize {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let length = rest.iter().position(|b| *b == b'}')?;
        (length > 0).then_some(&rest[..length])
    });
    usize::from(crc16(tag.unwrap_or(key))) % SLOTS
}

/// CRC-16/XMODEM: polynomial 0x1021, starting with 0.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the algorithm, and what `CLUSTER KEYSLOT` of Redis 7.0 says.
    #[test]
    fn keys_are_in_the_slots_where_redis_has_them() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, expected) in [
            ("foo", 12182),
            ("{user1000}.following", slot(b"user1000")),
            ("foo{}{bar}", slot(b"foo{}{bar}")),
            ("foo{{bar}}zap", slot(b"{bar")),
            ("foo{bar}{zap}", slot(b"bar")),
            ("", 0),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
    }

    #[test]
    fn commands_are_placed_by_their_keys() {
        let of = |command: &Cmd| key(command).map(<[u8]>::to_vec);
        let mut script = redis::cmd("EVALSHA");
        script.arg("hash").arg(2).arg("one").arg("two");
        assert_eq!(of(&script), Some(b"one".to_vec()));
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT")
            .arg(1)
            .arg("STREAMS")
            .arg("inbox")
            .arg("0-0");
        assert_eq!(of(&read), Some(b"inbox".to_vec()));
        assert_eq!(of(redis::cmd("GET").arg("x")), Some(b"x".to_vec()));
        assert_eq!(of(redis::cmd("PUBLISH").arg("channel").arg("x")), None);
    }

    #[test]
    fn the_answer_to_cluster_slots_is_read() {
        let seed = Host {
            name: "seed".to_owned(),
            port: 1,
        };
        let text = |text: &str| Value::BulkString(text.into());
        let range = |from, to, name, port| {
            let master = Value::Array(vec![name, Value::Int(port), text("id")]);
            let replica = Value::Array(vec![text("replica"), Value::Int(9), text("id")]);
            Value::Array(vec![Value::Int(from), Value::Int(to), master, replica])
        };
        let answer = Value::Array(vec![
            range(0, 99, text("a"), 7),
            range(100, 200, Value::Nil, 8),
            range(201, 16383, text("a"), 7),
        ]);
        let (hosts, slots) = read_slots(answer, &seed).unwrap();
        let shown: Vec<String> = hosts.iter().map(Host::to_string).collect();
        assert_eq!(shown, ["a:7", "seed:8"]);
        assert_eq!(
            [slots[0], slots[100], slots[200], slots[201], slots[16383]],
            [0, 1, 1, 0, 0]
        );
        for damaged in [
            Value::Nil,
            Value::Array(vec![range(0, 99, text("a"), 7)]),
            Value::Array(vec![range(0, 16384, text("a"), 7)]),
            Value::Array(vec![range(5, 2, text("a"), 7)]),
            Value::Array(vec![range(0, 16383, text("?"), 7)]),
        ] {
            assert!(read_slots(damaged, &seed).is_err());
        }
    }
}
