//! What every storage must do. Each backend's test file runs all of it.

pub(crate) mod accounts;
pub(crate) mod archive;
pub(crate) mod blocks;
pub(crate) mod lifecycle;
pub(crate) mod log;
pub(crate) mod profile;
pub(crate) mod retention;
pub(crate) mod roster;
pub(crate) mod whole;

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rookery_proto::{
    credentials::{Credentials, ScramKeys},
    jid::{BareJid, Jid},
};
use rookery_storage::{Entry, EntryId, LogCopy, NewMessage, Options, Pending, Storage, open};

/// An empty database of its own for each test.
pub(crate) struct Place {
    pub(crate) url: String,
    /// Removes the database when it is dropped.
    #[expect(dead_code, reason = "dropping it is what it is for")]
    pub(crate) keep: Box<dyn Any + Send>,
}

impl Place {
    /// Opens it. May be called more than once, as two processes would.
    pub(crate) async fn open(&self) -> Arc<dyn Storage> {
        self.open_with(Options::default()).await
    }

    /// All rows of all tables, each as text, past what the storage's own code shows.
    pub(crate) async fn every_row(&self) -> Vec<String> {
        match self.url.strip_prefix("sqlite://") {
            Some(path) => crate::sqlite::every_row(path),
            None => crate::postgres::every_row(&self.url).await,
        }
    }

    pub(crate) async fn open_with(&self, options: Options) -> Arc<dyn Storage> {
        open(&self.url, options).await.unwrap()
    }
}

pub(crate) fn bare(jid: &str) -> BareJid {
    BareJid::parse(jid).unwrap()
}

pub(crate) fn jid(jid: &str) -> Jid {
    Jid::parse(jid).unwrap()
}

/// Credentials that differ by `seed`.
pub(crate) fn credentials(seed: u8) -> Credentials {
    let keys = |size: usize, seed: u8| ScramKeys {
        salt: vec![seed; 16],
        iterations: 4096 + u32::from(seed),
        stored_key: vec![seed; size],
        server_key: vec![seed.wrapping_add(1); size],
    };
    Credentials {
        scram_sha1: keys(20, seed),
        scram_sha256: keys(32, seed.wrapping_add(100)),
    }
}

/// A time with microseconds, and so many seconds later.
pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH
        + Duration::from_micros(1_700_000_000_123_456)
        + Duration::from_secs(seconds)
}

/// One account's copy of a message.
pub(crate) fn copy(account: &str, peer: &str, archive: bool, pending: Pending) -> LogCopy {
    LogCopy {
        account: bare(account),
        peer: jid(peer),
        archive,
        pending,
    }
}

/// A message from afar to an account where nobody is; it is not archived.
pub(crate) fn offline(account: &str, stanza: &str) -> NewMessage {
    NewMessage {
        at: at(0),
        stanza: stanza.into(),
        recipient: Some(copy(
            account,
            "bob@example.org/desk",
            false,
            Pending::Offline,
        )),
        sender: None,
    }
}

/// A message between two accounts that are online; both archive it.
pub(crate) fn chat(from: &str, to: &str, stanza: &str) -> NewMessage {
    NewMessage {
        at: at(0),
        stanza: stanza.into(),
        recipient: Some(copy(jid(to).bare_str(), from, true, Pending::Live)),
        sender: Some(copy(jid(from).bare_str(), to, true, Pending::No)),
    }
}

/// Appends one message that has a copy for a recipient; gives that copy's id.
pub(crate) async fn append(storage: &Arc<dyn Storage>, message: NewMessage) -> EntryId {
    let stored = storage.append(vec![message], 10_000).await.unwrap()[0].unwrap();
    stored.recipient.unwrap().id
}

/// Notes that these entries of an account were delivered.
pub(crate) async fn mark(storage: &Arc<dyn Storage>, account: &BareJid, ids: &[EntryId]) {
    let delivered = vec![(account.clone(), ids.to_vec())];
    storage.mark_delivered(delivered).await.unwrap();
}

/// All that is undelivered.
pub(crate) async fn undelivered(storage: &Arc<dyn Storage>, account: &BareJid) -> Vec<Entry> {
    let entries = storage
        .undelivered(account, None, usize::MAX)
        .await
        .unwrap();
    let count = storage.undelivered_count(account).await.unwrap();
    assert_eq!(entries.len() as u64, count);
    entries
}

pub(crate) fn stanzas(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.stanza.as_str()).collect()
}

/// Creates `ann@localhost` and others of that domain.
pub(crate) async fn add(storage: &Arc<dyn Storage>, names: &[&str]) {
    for name in names {
        storage
            .create(&bare(&format!("{name}@localhost")), &credentials(1))
            .await
            .unwrap();
    }
}

/// Defines a test for each function of the suite, run at the place that `$place` makes.
#[macro_export]
macro_rules! run_suite {
    ($place:path) => {
        $crate::run_suite! { $place;
            accounts: an_account_is_created_once,
            accounts: credentials_read_back_as_they_were_set,
            accounts: accounts_without_a_login_are_found,
            accounts: a_disabled_account_keeps_what_is_its_own,
            accounts: a_change_by_another_process_is_seen_by_the_next_read,
            accounts: accounts_are_listed_in_pages_by_domain,
            accounts: deleting_an_account_removes_everything,
            accounts: an_account_created_again_starts_empty_and_above_the_old_numbers,
            roster: an_item_reads_back_as_it_was_put,
            roster: versions_grow_with_changes_only,
            roster: an_update_sees_what_is_stored,
            roster: changes_since_a_version_tell_the_newest_state_of_each_contact,
            roster: a_version_that_is_too_old_or_unknown_asks_for_everything,
            roster: forgotten_removals_ask_for_everything,
            roster: a_roster_has_a_limit,
            roster: requests_of_strangers_have_a_limit_of_their_own,
            roster: updates_race_and_none_is_lost,
            roster: updates_of_two_processes_race_and_none_is_lost,
            roster: a_panicking_update_harms_nobody_else,
            roster: an_update_without_account_is_refused,
            blocks: a_block_list_keeps_each_address_once,
            blocks: unblocking_tells_who_was_blocked,
            blocks: a_block_list_has_a_limit_and_is_then_left_as_it_was,
            log: entries_come_back_in_order_with_all_they_hold,
            log: undelivered_entries_are_read_in_pages,
            log: a_blocked_sender_is_refused,
            log: a_message_that_is_refused_leaves_logs_as_they_were,
            log: accounts_with_undelivered_entries_are_found,
            log: both_ends_get_a_copy,
            log: a_message_to_oneself_may_have_two_copies,
            log: what_nobody_keeps_is_not_stored,
            log: deliveries_are_confirmed_in_any_order,
            log: confirmations_of_many_accounts_are_one_call,
            log: ids_that_are_no_entries_are_ignored,
            log: what_is_archived_stays_when_it_is_delivered,
            log: deliveries_far_ahead_are_forgotten_from_the_newest_on,
            log: confirmations_of_two_nodes_add_up,
            log: a_log_has_a_limit_that_delivery_frees,
            log: what_is_delivered_live_is_never_refused_for_the_limit,
            log: messages_that_are_refused_do_not_stop_the_others,
            log: a_refused_message_is_in_neither_log,
            log: a_sender_that_is_gone_does_not_stop_the_message,
            log: calls_of_one_caller_keep_their_order,
            log: concurrent_appends_get_distinct_growing_ids,
            log: ids_grow_in_the_order_in_which_readers_see_them,
            log: one_append_may_be_large,
            archive: an_archive_is_read_in_pages_both_ways,
            archive: pages_of_a_growing_archive_miss_nothing,
            archive: with_a_bare_jid_finds_all_resources_and_a_full_one_itself,
            archive: start_and_end_are_inclusive,
            archive: times_that_are_out_of_order_are_found,
            archive: a_range_of_ids_is_exclusive,
            archive: single_entries_are_read_by_their_ids,
            archive: an_unknown_id_is_told,
            archive: only_archived_entries_are_found,
            archive: an_archive_has_bounds,
            archive: preferences_read_back_and_decide,
            archive: a_change_of_preferences_by_another_process_counts,
            archive: the_roster_decides_if_preferences_say_so,
            archive: pending_messages_are_stored_whatever_preferences_say,
            archive: an_unknown_account_has_an_empty_archive,
            retention: entries_expire_by_age,
            retention: entries_expire_by_count,
            retention: undelivered_entries_do_not_expire,
            retention: one_end_may_forget_what_the_other_keeps,
            profile: a_vcard_is_replaced,
            profile: private_elements_are_told_apart_by_name_and_namespace,
            profile: private_storage_has_a_limit,
            profile: the_last_activity_never_goes_back,
            whole: accounts_are_put_with_all_that_is_theirs,
            whole: one_that_exists_keeps_all_from_being_put,
            whole: an_account_takes_over_the_log_of_another,
            whole: nothing_is_left_of_a_deleted_account,
            lifecycle: a_secret_is_made_once_for_all_nodes,
            lifecycle: two_processes_start_at_once_on_an_empty_database,
            lifecycle: closing_finishes_what_was_asked_for_and_refuses_the_rest,
            lifecycle: everything_is_there_after_opening_again,
            lifecycle: a_full_queue_makes_callers_wait_and_then_fail,
            lifecycle: operations_are_measured,
        }
    };
    ($place:path; $($module:ident: $name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::suite::$module::$name($place().await).await;
            }
        )*
    };
}
