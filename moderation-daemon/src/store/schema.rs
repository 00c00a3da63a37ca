//! The tables, as a list of migrations. One that has been released is never
//! changed; a change is another one behind it.

use rusqlite_migration::{M, Migrations};

pub(super) fn migrations() -> Migrations<'static> {
    Migrations::new(vec![
        M::up(BANS_VIOLATIONS_SCORES),
        M::up(BANS_OF_ANY_SHAPE),
        M::up(PENALTIES_AND_WHY),
        M::up(RECORDS_TO_EXPLAIN_AND_EXPORT),
        M::up(SESSIONS_THAT_ENDED),
        M::up(BANS_THAT_HOSTS_SHARE),
    ])
}

/// Times are milliseconds since 1970. An address is `192.0.2.7`, or a prefix
/// such as `2001:db8:0:1::/64`.
const BANS_VIOLATIONS_SCORES: &str = "
CREATE TABLE bans (
    -- AUTOINCREMENT: a number is never used twice, not even after retention.
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    user          TEXT,
    address       TEXT,
    reason        TEXT NOT NULL,
    violation     TEXT,     -- null: an operator banned
    score         REAL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,  -- null: permanent
    lifted_at_ms  INTEGER,
    lifted_by     TEXT,
    CHECK (user IS NOT NULL OR address IS NOT NULL)
) STRICT;
CREATE INDEX bans_unlifted ON bans (expires_at_ms) WHERE lifted_at_ms IS NULL;
CREATE INDEX bans_lifted ON bans (lifted_at_ms) WHERE lifted_at_ms IS NOT NULL;

CREATE TABLE violations (
    id         INTEGER PRIMARY KEY,
    type       TEXT NOT NULL,
    user       TEXT,
    ip         TEXT,
    points     REAL NOT NULL,
    previous   REAL NOT NULL,  -- the score of this type before
    total      REAL NOT NULL,  -- and after
    limiter    TEXT,
    request_id TEXT,
    at_ms      INTEGER NOT NULL
) STRICT;
CREATE INDEX violations_at ON violations (at_ms);

CREATE TABLE scores (
    bearer_kind   TEXT NOT NULL CHECK (bearer_kind IN ('user', 'address')),
    bearer        TEXT NOT NULL,
    type          TEXT NOT NULL,
    points        REAL NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (bearer_kind, bearer, type)
) STRICT, WITHOUT ROWID;
CREATE INDEX scores_updated ON scores (updated_at_ms);

CREATE TABLE allowlist (
    prefix        TEXT PRIMARY KEY,
    note          TEXT,
    added_by      TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// 0: the ban holds at the API only, the kernel is to drop nothing for it.
const BANS_OF_ANY_SHAPE: &str = "
ALTER TABLE bans ADD COLUMN blocks INTEGER NOT NULL DEFAULT 1 CHECK (blocks IN (0, 1));
";

/// What led to a penalty, who did it, how it grows, what is known about users.
/// Of the bans before it, those without a violation were operators'.
const PENALTIES_AND_WHY: &str = "
ALTER TABLE violations ADD COLUMN bearer_kind TEXT;
ALTER TABLE violations ADD COLUMN bearer TEXT;
ALTER TABLE violations ADD COLUMN max_shown TEXT;   -- the limit, as LibreChat's records tell it, in JSON
ALTER TABLE violations ADD COLUMN window_ms INTEGER;
ALTER TABLE violations ADD COLUMN pending INTEGER;  -- generations that were running
ALTER TABLE violations ADD COLUMN repeats INTEGER NOT NULL DEFAULT 0;
ALTER TABLE violations ADD COLUMN severity TEXT;
ALTER TABLE violations ADD COLUMN details TEXT;
ALTER TABLE violations ADD COLUMN ban INTEGER;      -- the ban that it led to
ALTER TABLE violations ADD COLUMN penalty INTEGER;  -- the penalty that it led to
ALTER TABLE violations ADD COLUMN imported INTEGER NOT NULL DEFAULT 0 CHECK (imported IN (0, 1));
CREATE INDEX violations_user ON violations (user, at_ms) WHERE user IS NOT NULL;
CREATE INDEX violations_ip ON violations (ip, at_ms) WHERE ip IS NOT NULL;

ALTER TABLE bans ADD COLUMN by TEXT NOT NULL DEFAULT 'rule';
ALTER TABLE bans ADD COLUMN with_ban INTEGER;       -- lifted together with it
ALTER TABLE bans ADD COLUMN review INTEGER NOT NULL DEFAULT 0 CHECK (review IN (0, 1));
ALTER TABLE bans ADD COLUMN severity TEXT;
UPDATE bans SET by = 'operator' WHERE violation IS NULL;

ALTER TABLE scores ADD COLUMN spent REAL NOT NULL DEFAULT 0;
ALTER TABLE scores ADD COLUMN decayed_at_ms INTEGER NOT NULL DEFAULT 0;
UPDATE scores SET decayed_at_ms = updated_at_ms;

CREATE TABLE penalties (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    kind         TEXT NOT NULL,
    user         TEXT,
    address      TEXT,
    violation    TEXT,     -- null: an operator's wish
    violation_id INTEGER,
    severity     TEXT,
    reason       TEXT NOT NULL,
    detail       TEXT,     -- the message of a warning, the thousandths of a reduction
    starts_at_ms INTEGER NOT NULL,
    ends_at_ms   INTEGER,  -- null: permanent
    by           TEXT NOT NULL,
    ended_at_ms  INTEGER,
    ended_by     TEXT,
    ban          INTEGER,
    CHECK (user IS NOT NULL OR address IS NOT NULL)
) STRICT;
CREATE INDEX penalties_user ON penalties (user) WHERE user IS NOT NULL;
CREATE INDEX penalties_ends ON penalties (ends_at_ms);

CREATE TABLE offences (
    bearer_kind TEXT NOT NULL,
    bearer      TEXT NOT NULL,
    level       REAL NOT NULL,
    at_ms       INTEGER NOT NULL,
    grace       INTEGER NOT NULL DEFAULT 0 CHECK (grace IN (0, 1)),
    PRIMARY KEY (bearer_kind, bearer)
) STRICT, WITHOUT ROWID;
CREATE INDEX offences_at ON offences (at_ms);

CREATE TABLE totals (
    bearer_kind TEXT NOT NULL,
    bearer      TEXT NOT NULL,
    type        TEXT NOT NULL,
    count       INTEGER NOT NULL,
    points      REAL NOT NULL,
    first_at_ms INTEGER NOT NULL,
    last_at_ms  INTEGER NOT NULL,
    PRIMARY KEY (bearer_kind, bearer, type)
) STRICT, WITHOUT ROWID;
CREATE INDEX totals_last ON totals (last_at_ms);

CREATE TABLE leases (
    id          INTEGER PRIMARY KEY,
    bearer_kind TEXT NOT NULL,
    bearer      TEXT NOT NULL,
    request_id  TEXT,
    ends_at_ms  INTEGER NOT NULL
) STRICT;
CREATE INDEX leases_ends ON leases (ends_at_ms);

CREATE TABLE subjects (
    user           TEXT PRIMARY KEY,
    tier           TEXT,
    role           TEXT,
    created_at_ms  INTEGER,
    email_verified INTEGER CHECK (email_verified IN (0, 1)),
    paying         INTEGER CHECK (paying IN (0, 1)),
    factor         INTEGER,  -- thousandths
    factor_at_ms   INTEGER,
    flagged        INTEGER NOT NULL DEFAULT 0,
    seen_at_ms     INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX subjects_seen ON subjects (seen_at_ms);
";

/// Explaining asks for the violations of whoever bears them; records that come
/// from LibreChat keep what theirs said.
const RECORDS_TO_EXPLAIN_AND_EXPORT: &str = "
ALTER TABLE violations ADD COLUMN label TEXT;               -- what LibreChat calls the limiter
ALTER TABLE violations ADD COLUMN window_shown REAL;        -- its window in minutes, if another
ALTER TABLE violations ADD COLUMN imported_ban INTEGER;     -- whether it was a ban there
ALTER TABLE violations ADD COLUMN imported_ban_ms INTEGER;  -- and for how long
ALTER TABLE subjects ADD COLUMN flagged_since_ms INTEGER NOT NULL DEFAULT 0;
CREATE INDEX violations_bearer ON violations (bearer, id) WHERE bearer IS NOT NULL;
CREATE INDEX violations_ban ON violations (ban) WHERE ban IS NOT NULL;
CREATE INDEX bans_user ON bans (user) WHERE user IS NOT NULL;
CREATE INDEX bans_address ON bans (address) WHERE address IS NOT NULL;
";

/// Soft bans leave no ban behind that could tell of them.
const SESSIONS_THAT_ENDED: &str = "
ALTER TABLE violations ADD COLUMN logout INTEGER NOT NULL DEFAULT 0 CHECK (logout IN (0, 1));
CREATE INDEX violations_logout ON violations (bearer, id) WHERE logout = 1;
";

/// What other hosts are to learn, and what was learned from them.
const BANS_THAT_HOSTS_SHARE: &str = "
ALTER TABLE bans ADD COLUMN uid TEXT;      -- the ban's name on every host
ALTER TABLE bans ADD COLUMN origin TEXT;   -- null: this host; host:NAME; foreign: a document without a signature
UPDATE bans SET uid = lower(hex(randomblob(16)));
CREATE UNIQUE INDEX bans_uid ON bans (uid);

CREATE TABLE outbox (
    -- AUTOINCREMENT: a row that is acknowledged late must not be another one by then.
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    ban   INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_ban ON outbox (ban);

CREATE TABLE documents (
    key           TEXT PRIMARY KEY,
    id            TEXT NOT NULL,
    uid           TEXT NOT NULL,
    holder        TEXT NOT NULL CHECK (holder IN ('here', 'elsewhere', 'foreign')),
    expires_at_ms INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE ledger (
    name  TEXT PRIMARY KEY,  -- position, beat, gap
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;
";

pub(super) fn import_migrations() -> Migrations<'static> {
    Migrations::new(vec![M::up(IMPORTS)])
}

/// A file of its own. `run` counts the imports of a source: what the last one
/// did not bring again can be told from what it did.
const IMPORTS: &str = "
CREATE TABLE imports (
    id            INTEGER PRIMARY KEY,
    source        TEXT NOT NULL UNIQUE,
    run           INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    imported_by   TEXT NOT NULL
) STRICT;

CREATE TABLE import_entries (
    import        INTEGER NOT NULL REFERENCES imports (id),
    prefix        TEXT NOT NULL,
    expires_at_ms INTEGER,  -- null: permanent
    run           INTEGER NOT NULL,
    PRIMARY KEY (import, prefix)
) STRICT, WITHOUT ROWID;
";

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    #[test]
    fn rows_of_earlier_versions_stay_and_say_who_banned() {
        let mut database = Connection::open_in_memory().expect("memory");
        let migrations = super::migrations();
        migrations.to_version(&mut database, 2).expect("valid SQL");
        database
            .execute_batch(
                "INSERT INTO bans (user, reason, violation, created_at_ms)
                 VALUES ('anna', 'test', 'logins', 1), ('bert', 'test', NULL, 1);
                 INSERT INTO scores VALUES ('user', 'anna', 'logins', 20, 7);
                 INSERT INTO violations (type, user, points, previous, total, at_ms)
                 VALUES ('logins', 'anna', 1, 19, 20, 7);",
            )
            .expect("valid rows");
        migrations.to_latest(&mut database).expect("valid SQL");
        let one = |sql: &str| database.query_row(sql, [], |row| row.get::<_, String>(0));
        assert_eq!(one("SELECT by FROM bans WHERE user = 'anna'"), Ok("rule".to_owned()));
        assert_eq!(one("SELECT by FROM bans WHERE user = 'bert'"), Ok("operator".to_owned()));
        assert_eq!(
            one("SELECT format('%.0f %.0f %d', points, spent, decayed_at_ms) FROM scores"),
            Ok("20 0 7".to_owned())
        );
        assert_eq!(
            one("SELECT type || repeats || logout FROM violations"),
            Ok("logins00".to_owned())
        );
    }

    #[test]
    fn the_migrations_apply_to_an_empty_database() {
        super::migrations().validate().expect("valid SQL");
        super::import_migrations().validate().expect("valid SQL");
    }
}
