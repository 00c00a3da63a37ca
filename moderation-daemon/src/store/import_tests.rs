//! Imported lists on real files, by the store's public face.

use tempfile::TempDir;

use super::*;
use crate::{
    blocklist::{Expiry, Imports, Source},
    engine::Prefix,
};

const NOW: u64 = 10_000;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn open(folder: &TempDir) -> ImportStore {
    ImportStore::open(&folder.path().join("moderation.db")).expect("a new store")
}

fn source(name: &str) -> Source {
    name.parse().expect("a source")
}

fn entries(prefixes: &[&str], expires_at_ms: Option<u64>) -> Vec<(Prefix, Expiry)> {
    let parse = |text: &&str| (text.parse().expect("a prefix"), Expiry::at(expires_at_ms));
    prefixes.iter().map(parse).collect()
}

fn add(store: &mut ImportStore, name: &str, prefixes: &[&str], expires_at_ms: Option<u64>) {
    let entries = entries(prefixes, expires_at_ms);
    let added = store.add(&source(name), None, &entries, "root", NOW);
    added.expect("a healthy disk").expect("no other run");
}

fn listed(imports: &Imports) -> Vec<String> {
    let mut listed: Vec<_> = imports.iter().map(|(prefix, _)| prefix.to_string()).collect();
    listed.sort();
    listed
}

fn remove_all(store: &mut ImportStore, what: &Removal) -> usize {
    let (mut place, mut count) = (Place::default(), 0);
    loop {
        let slice = store.remove(what, &place).expect("a healthy disk");
        count += slice.removed.len();
        match slice.rest {
            Some(rest) => place = rest,
            None => return count,
        }
    }
}

#[test]
fn what_was_imported_is_there_after_opening_again_unless_it_has_lapsed() {
    let folder = folder();
    let mut store = open(&folder);
    add(&mut store, "one", &["192.0.2.7", "2001:db8::/64", "198.51.100.0/24"], None);
    add(&mut store, "one", &["192.0.2.8"], Some(NOW));
    add(&mut store, "two", &["192.0.2.7"], Some(NOW + 5_000));
    drop(store);
    let imports = open(&folder).load(NOW).expect("readable");
    assert_eq!(listed(&imports), ["192.0.2.7", "192.0.2.7", "198.51.100.0/24", "2001:db8::/64"]);
    let prefix = "192.0.2.7".parse().expect("a prefix");
    let told: Vec<_> = imports.of_prefix(prefix).map(|it| (it.source, it.expiry)).collect();
    let until = Expiry::at(Some(NOW + 5_000));
    assert_eq!(told, [(source("one"), Expiry::NEVER), (source("two"), until)]);
}

#[test]
fn what_the_last_run_did_not_bring_again_is_stale() {
    let folder = folder();
    let mut store = open(&folder);
    let list = source("list");
    let first = store.begin(&list, "root", NOW).expect("a healthy disk");
    let old = entries(&["192.0.2.1", "192.0.2.2"], None);
    store.add(&list, Some(first), &old, "root", NOW).expect("healthy").expect("the latest");
    let second = store.begin(&list, "root", NOW).expect("a healthy disk");
    let late = store.add(&list, Some(first), &old, "root", NOW).expect("a healthy disk");
    assert_eq!(late, Err(RunMismatch), "another import has begun");
    assert!(!store.is_latest(&list, first).expect("readable"));
    let new = entries(&["192.0.2.2", "192.0.2.3"], None);
    store.add(&list, Some(second), &new, "root", NOW).expect("healthy").expect("the latest");
    assert_eq!(remove_all(&mut store, &Removal::Stale(list, Some(second))), 1);
    assert_eq!(listed(&store.load(NOW).expect("readable")), ["192.0.2.2", "192.0.2.3"]);
}

#[test]
fn removals_take_what_they_name_and_nothing_else_however_much_it_is() {
    let folder = folder();
    let mut store = open(&folder);
    let many: Vec<_> = (0..10_000).map(|key| (Prefix::from_v4(key), Expiry::NEVER)).collect();
    store.add(&source("many"), None, &many, "root", NOW).expect("healthy").expect("none other");
    add(&mut store, "few", &["192.0.2.7", "192.0.2.8"], Some(NOW + 1_000));
    add(&mut store, "other", &["192.0.2.7"], None);
    let prefix = "192.0.2.7".parse().expect("a prefix");
    assert_eq!(remove_all(&mut store, &Removal::Expired(NOW + 999)), 0);
    assert_eq!(remove_all(&mut store, &Removal::Prefix(prefix)), 2);
    assert_eq!(remove_all(&mut store, &Removal::Expired(NOW + 1_000)), 1);
    assert_eq!(remove_all(&mut store, &Removal::Source(source("many"))), 10_000);
    let left = store.load(NOW).expect("readable");
    assert_eq!(
        left.lists().map(|it| it.source).collect::<Vec<_>>(),
        [source("few"), source("other")]
    );
    assert!(listed(&left).is_empty());
}

#[test]
fn a_row_that_makes_no_sense_is_named() {
    let folder = folder();
    let mut store = open(&folder);
    add(&mut store, "list", &["192.0.2.7"], None);
    let path = folder.path().join("moderation.imports.db");
    let sql = "UPDATE import_entries SET prefix = 'nonsense'";
    Connection::open(path).and_then(|it| it.execute(sql, [])).expect("valid SQL");
    let error = store.load(NOW).expect_err("nonsense is no prefix").to_string();
    assert!(error.starts_with("import_entries of list: \"nonsense\" is neither"), "{error}");
}

#[test]
fn lists_belong_to_one_daemon_at_a_time_and_to_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let store = open(&folder);
    let second = ImportStore::open(&folder.path().join("moderation.db"));
    assert!(matches!(second, Err(StoreError::InUse { .. })), "{second:?}");
    drop(store);
    let metadata = folder.path().join("moderation.imports.db").metadata().expect("it exists");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}
