//! The place among the records of violations that others have, by the store's public face.

use std::time::Duration;

use super::*;

fn store_and_reader(folder: &TempDir) -> (Store, Reader) {
    let store = open(folder);
    let reader = store.reader(&folder.path().join("moderation.db")).expect("the same file");
    (store, reader)
}

fn told(until: u64) -> Notes {
    Notes { records_until: Some(until), ..Notes::default() }
}

fn numbers(reader: &Reader, after: u64, limit: u32) -> Vec<u64> {
    let found = reader.violations_after(after, limit).expect("readable");
    found.into_iter().map(|one| one.id).collect()
}

#[test]
fn what_waits_is_what_is_behind_the_last_one_that_was_told_also_after_a_restart() {
    let folder = folder();
    let (mut store, reader) = store_and_reader(&folder);
    assert_eq!(reader.backlog().expect("readable"), Backlog::default());
    store.commit(&[100, 200, 300].map(|at| violation(None, at))).expect("a commit");
    let all = Backlog { told: 0, last: 3, oldest_unix_ms: 100 };
    assert_eq!(reader.backlog().expect("readable"), all);
    assert_eq!((all.waiting(), numbers(&reader, 0, 2)), (3, vec![1, 2]));
    store.commit_noted(&[], &told(2)).expect("a commit");
    drop((store, reader));
    let (mut store, reader) = store_and_reader(&folder);
    let rest = Backlog { told: 2, last: 3, oldest_unix_ms: 300 };
    assert_eq!((reader.backlog().expect("readable"), rest.waiting()), (rest, 1));
    assert_eq!(numbers(&reader, 2, 10), [3]);
    store.commit_noted(&[], &told(3)).expect("a commit");
    let none = Backlog { told: 3, last: 3, oldest_unix_ms: 0 };
    assert_eq!((reader.backlog().expect("readable"), none.waiting()), (none, 0));
}

#[test]
fn numbers_that_begin_anew_are_told_from_the_first() {
    let folder = folder();
    let (mut store, reader) = store_and_reader(&folder);
    store.commit(&[100, 200].map(|at| violation(None, at))).expect("a commit");
    store.commit_noted(&[], &told(2)).expect("a commit");
    let keep = Keep::all(Duration::from_secs(1), 100);
    // One is kept: the place stays.
    store.prune(1_150, keep).expect("a healthy disk");
    assert_eq!(reader.backlog().expect("readable").told, 2);
    store.prune(10_000, keep).expect("a healthy disk");
    assert_eq!(reader.backlog().expect("readable"), Backlog::default());
    store.commit(&[violation(None, 9_900)]).expect("a commit");
    assert_eq!(numbers(&reader, 0, 10), [1]);
    assert_eq!(reader.backlog().expect("readable").waiting(), 1);
}
