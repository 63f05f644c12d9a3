//! Who may connect and try to log in: limits that one stranger cannot get around by reconnecting.
//!
//! One [`Admission`] per process, shared by all arbiters. A connection holds a [`Ticket`] until it
//! has logged in; then only the limits on sessions count. Failed logins are counted per account in a
//! bucket that refills slowly, so a guesser is slowed down on all streams together. The owner of an
//! account under attack is slowed down as well, and told so by `temporary-auth-failure`
//! (RFC 6120 §6.5.9): there is no way to tell the two apart before the password is checked.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use rookery_proto::jid::BareJid;
use tokio::sync::Semaphore;

use crate::settings::Settings;

/// How many accounts with failed logins are remembered. Beyond that the table is swept, and if
/// that does not help the account is not counted: memory stays bounded.
const MAX_TRACKED_ACCOUNTS: usize = 100_000;

/// Limits on connections that have not logged in and on login attempts.
#[derive(Debug)]
pub struct Admission {
    doors: Arc<Doors>,
    attempts: Mutex<HashMap<BareJid, Bucket>>,
    attempts_per_account: u32,
    attempt_interval: Duration,
    password_checks: Arc<Semaphore>,
}

/// Counts the connections that have not logged in.
#[derive(Debug)]
struct Doors {
    waiting: AtomicUsize,
    max: usize,
    max_per_address: usize,
    per_address: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection that has not logged in; dropping it makes room for another.
#[derive(Debug)]
pub struct Ticket {
    doors: Arc<Doors>,
    address: IpAddr,
}

/// Why a connection is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too many connections have not logged in.
    TooMany,
    /// Too many connections from this address have not logged in.
    TooManyFromAddress,
}

/// Failed attempts of an account: `level` of them, one less per interval since `at`.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: u32,
    at: Instant,
}

impl Admission {
    /// Limits as configured, nobody counted yet.
    pub fn new(settings: &Settings) -> Self {
        Self {
            doors: Arc::new(Doors {
                waiting: AtomicUsize::new(0),
                max: settings.c2s.max_unauthenticated,
                max_per_address: settings.c2s.max_unauthenticated_per_address,
                per_address: Mutex::default(),
            }),
            attempts: Mutex::default(),
            attempts_per_account: settings.auth.attempts_per_account,
            attempt_interval: settings.auth.attempt_interval.max(Duration::from_millis(1)),
            password_checks: Arc::new(Semaphore::new(settings.auth.password_checks_at_once.max(1))),
        }
    }

    /// Lets a connection from this address in.
    ///
    /// # Errors
    /// Says which limit is reached.
    pub fn admit(&self, address: IpAddr) -> Result<Ticket, Refusal> {
        let doors = &self.doors;
        if doors.waiting.fetch_add(1, Ordering::Relaxed) >= doors.max {
            doors.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::TooMany);
        }
        let address = site_of(address);
        let mut per_address = doors
            .per_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = per_address.entry(address).or_insert(0);
        if *count >= doors.max_per_address {
            // A limit of 0 must not leave an entry behind.
            if *count == 0 {
                per_address.remove(&address);
            }
            drop(per_address);
            doors.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::TooManyFromAddress);
        }
        *count += 1;
        drop(per_address);
        Ok(Ticket {
            doors: doors.clone(),
            address,
        })
    }

    /// Whether a connection from this address would be let in now. For listeners, before they spend
    /// anything on it; the limits count with [`admit`](Self::admit).
    pub fn admits(&self, peer: SocketAddr) -> bool {
        let doors = &self.doors;
        if doors.waiting.load(Ordering::Relaxed) >= doors.max {
            return false;
        }
        let per_address = doors
            .per_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        per_address
            .get(&site_of(peer.ip()))
            .is_none_or(|count| *count < doors.max_per_address)
    }

    /// How many connections have not logged in.
    pub fn waiting(&self) -> usize {
        self.doors.waiting.load(Ordering::Relaxed)
    }

    /// Whether this account has an attempt left at this time.
    pub fn may_try(&self, account: &BareJid, now: Instant) -> bool {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.get(account).is_none_or(|bucket| {
            bucket.level_at(now, self.attempt_interval) < self.attempts_per_account
        })
    }

    /// Counts a failed login of this account, whether or not the account exists.
    pub fn failed(&self, account: &BareJid, now: Instant) {
        let interval = self.attempt_interval;
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() >= MAX_TRACKED_ACCOUNTS && !attempts.contains_key(account) {
            attempts.retain(|_, bucket| bucket.level_at(now, interval) > 0);
            if attempts.len() >= MAX_TRACKED_ACCOUNTS {
                return;
            }
        }
        let bucket = attempts
            .entry(account.clone())
            .or_insert(Bucket { level: 0, at: now });
        let level = bucket.level_at(now, interval);
        *bucket = Bucket {
            level: level.saturating_add(1).min(self.attempts_per_account),
            at: now,
        };
    }

    /// Forgets the failed logins of an account that has logged in.
    pub fn succeeded(&self, account: &BareJid) {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if !attempts.is_empty() {
            attempts.remove(account);
        }
    }

    /// Bounds how many passwords are hashed at the same time.
    pub fn password_checks(&self) -> Arc<Semaphore> {
        self.password_checks.clone()
    }
}

impl Bucket {
    fn level_at(self, now: Instant, interval: Duration) -> u32 {
        let regained = now.saturating_duration_since(self.at).as_millis() / interval.as_millis();
        self.level
            .saturating_sub(u32::try_from(regained).unwrap_or(u32::MAX))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.doors.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut per_address = self
            .doors
            .per_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = per_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                per_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: an IPv4 address, or the /64 that one IPv6 subscriber usually has.
fn site_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(change: impl FnOnce(&mut Settings)) -> Admission {
        let mut settings = Settings::default();
        change(&mut settings);
        Admission::new(&settings)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_gets_only_so_many_connections_until_one_leaves() {
        let admission = admission(|s| s.c2s.max_unauthenticated_per_address = 2);
        let first = admission.admit(ip("192.0.2.1")).unwrap();
        let _second = admission.admit(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(
            admission.admit(ip("192.0.2.1")).unwrap_err(),
            Refusal::TooManyFromAddress
        );
        assert!(admission.admit(ip("192.0.2.2")).is_ok());
        drop(first);
        assert!(admission.admit(ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn all_addresses_together_are_limited() {
        let admission = admission(|s| s.c2s.max_unauthenticated = 1);
        let only = admission.admit(ip("192.0.2.1")).unwrap();
        assert_eq!(
            admission.admit(ip("192.0.2.2")).unwrap_err(),
            Refusal::TooMany
        );
        assert_eq!(admission.waiting(), 1);
        drop(only);
        assert_eq!(admission.waiting(), 0);
    }

    #[test]
    fn neighbours_in_one_ipv6_subnet_count_as_one() {
        let admission = admission(|s| s.c2s.max_unauthenticated_per_address = 1);
        let _first = admission.admit(ip("2001:db8:0:1::1")).unwrap();
        assert!(admission.admit(ip("2001:db8:0:1::2")).is_err());
        assert!(admission.admit(ip("2001:db8:0:2::1")).is_ok());
    }

    #[test]
    fn tickets_leave_no_trace() {
        let admission = admission(|_| ());
        drop(admission.admit(ip("192.0.2.1")).unwrap());
        assert!(admission.doors.per_address.lock().unwrap().is_empty());
    }

    #[test]
    fn failed_attempts_of_an_account_run_out_and_come_back_slowly() {
        let admission = admission(|s| {
            s.auth.attempts_per_account = 3;
            s.auth.attempt_interval = Duration::from_secs(10);
        });
        let ann = BareJid::parse("ann@localhost").unwrap();
        let start = Instant::now();
        for _ in 0..3 {
            assert!(admission.may_try(&ann, start));
            admission.failed(&ann, start);
        }
        assert!(!admission.may_try(&ann, start));
        assert!(!admission.may_try(&ann, start + Duration::from_secs(9)));
        assert!(admission.may_try(&ann, start + Duration::from_secs(10)));
        admission.failed(&ann, start + Duration::from_secs(10));
        assert!(!admission.may_try(&ann, start + Duration::from_secs(11)));
        admission.succeeded(&ann);
        assert!(admission.may_try(&ann, start + Duration::from_secs(11)));
    }
}
