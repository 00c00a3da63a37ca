//! The tables, as a list of migrations. One that has been released is never
//! changed; a change is another one behind it.

use rusqlite_migration::{M, Migrations};

pub(super) fn migrations() -> Migrations<'static> {
    Migrations::new(vec![M::up(BANS_VIOLATIONS_SCORES), M::up(BANS_OF_ANY_SHAPE)])
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
    #[test]
    fn the_migrations_apply_to_an_empty_database() {
        super::migrations().validate().expect("valid SQL");
        super::import_migrations().validate().expect("valid SQL");
    }
}
