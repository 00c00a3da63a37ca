//! A database that dies, stands still, loses its primary, fails, is full, is cut off, is
//! emptied or set back while bans fall; and hosts that are killed meanwhile. In the end all
//! counts are equal: what was acknowledged, what every host holds, what every kernel drops,
//! what the database has. No decision waits.

mod outbox;
mod stage;

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use moderation_tests::mongod::{Base, Plan};
use moderation_tests::{need, wait};
use mongodb::bson::{Document, doc};

use self::stage::{Fate, Pace, Servers, Stage, World, some_time};
use super::{LOGS, is_possible};

/// A set of one tells of changes as one of three does.
const ONE: Servers = Servers::Set(1);

/// Each fault twice: hosts live through it, and hosts are killed meanwhile.
fn survive(
    servers: Servers,
    plan: Plan,
    fault: impl Fn(&mut World, Fate) -> Result<()>,
) -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let mut stage = Stage::new(servers, plan)?;
    for fate in [Fate::Live, Fate::Die] {
        let survived = stage.survive(fate, |world| fault(world, fate));
        survived.map_err(|error| error.context(format!("{fate:?}")))?;
    }
    Ok(())
}

/// So long in a long run, else so long.
fn lasting(long: Duration, short: Duration) -> Duration {
    if need::is_long() { long } else { short }
}

#[test]
fn nothing_is_lost_when_mongod_is_killed() -> Result<()> {
    for servers in [Servers::Alone, ONE] {
        survive(servers, Plan::default(), |world, _| {
            let member = &mut world.set.members[0];
            member.kill()?;
            some_time();
            member.resurrect()?;
            world.set.primary().map(drop)
        })?;
    }
    Ok(())
}

#[test]
fn nothing_is_lost_when_mongod_stands_still() -> Result<()> {
    survive(ONE, Plan::default(), |world, fate| {
        let member = &world.set.members[0];
        member.freeze()?;
        let longer_than_an_operation = Duration::from_secs(5);
        let standstill = match fate {
            Fate::Live => lasting(Duration::from_secs(60), longer_than_an_operation),
            Fate::Die => Duration::from_secs(1),
        };
        thread::sleep(standstill); // paces: bans go on falling meanwhile
        member.thaw()
    })
}

#[test]
fn nothing_is_lost_in_ten_minutes_without_mongod() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let mut stage = Stage::new(ONE, Plan::default())?.at(Pace::STEADY);
    stage.survive(Fate::Live, |world| {
        let member = &mut world.set.members[0];
        member.kill()?;
        let absence = lasting(Duration::from_secs(600), Duration::from_secs(4));
        thread::sleep(absence); // paces: bans go on falling meanwhile
        member.resurrect()?;
        world.set.primary().map(drop)
    })
}

#[test]
fn nothing_is_lost_when_the_primary_is() -> Result<()> {
    survive(Servers::Set(3), Plan::default(), |world, _| {
        let primary = world.set.primary()?;
        world.set.members[primary].kill()?;
        world.set.primary()?;
        some_time();
        world.set.members[primary].resurrect()
    })
}

#[test]
fn nothing_is_lost_when_the_disk_of_mongod_is_full() -> Result<()> {
    survive(ONE, Plan::default().on_disk(384), |world, _| {
        world.set.members[0].fill_disk()?;
        some_time();
        some_time();
        world.set.members[0].free_disk()?;
        // It ends by itself when it cannot write its journal.
        world.set.members[0].revive()?;
        world.set.primary().map(drop)
    })
}

#[test]
fn nothing_is_lost_when_rights_are_revoked() -> Result<()> {
    survive(ONE, Plan::default().with_rights(), |world, _| {
        world.set.change_rights("revokeRolesFromUser")?;
        some_time();
        world.set.change_rights("grantRolesToUser")
    })
}

#[test]
fn nothing_is_lost_when_the_user_is_dropped() -> Result<()> {
    survive(ONE, Plan::default().with_rights(), |world, _| {
        world.set.drop_user()?;
        some_time();
        world.set.make_user()
    })
}

#[test]
fn nothing_is_lost_when_a_host_is_cut_off() -> Result<()> {
    survive(ONE, Plan::default(), |world, _| {
        let router = &world.lab.router;
        router.configure(&["link set host down"])?;
        some_time();
        some_time();
        router.configure(&["link set host up"])
    })
}

#[test]
fn nothing_is_lost_when_answers_do_not_come() -> Result<()> {
    survive(ONE, Plan::default(), |world, _| {
        // What hosts say still arrives, and is done.
        let swallow = |what: &str| {
            world.lab.router.configure(&[
                format!("route {what} blackhole 192.0.2.1/32"),
                format!("route {what} blackhole 203.0.113.5/32"),
            ])
        };
        swallow("add")?;
        some_time();
        some_time();
        swallow("delete")
    })
}

#[test]
fn nothing_is_lost_when_commands_fail() -> Result<()> {
    survive(ONE, Plan::default(), |world, _| {
        let base = world.set.base()?;
        // NotWritablePrimary, InterruptedAtShutdown, ExceededTimeLimit, Unauthorized.
        for code in [10_107, 11_600, 262, 13] {
            let commands = ["insert", "update", "delete", "find", "aggregate", "getMore"];
            base.fail(&commands, 5, code)?;
            some_time();
        }
        base.command("admin", doc! { "configureFailPoint": "failCommand", "mode": "off" }).map(drop)
    })
}

#[test]
fn nothing_is_lost_when_the_collection_is_dropped() -> Result<()> {
    survive(ONE, Plan::default(), |world, _| {
        world.set.base()?.run(doc! { "drop": LOGS })?;
        some_time();
        Ok(())
    })
}

#[test]
fn nothing_is_lost_when_an_old_backup_is_restored() -> Result<()> {
    survive(ONE, Plan::default(), |world, fate| {
        let signs = if fate == Fate::Die { 2 } else { 1 };
        let base = world.set.base()?;
        let backup = base.find(LOGS, doc! {})?;
        ensure!(!backup.is_empty());
        // It is an old one if hosts have left a sign of life since, and noted it: who is
        // killed before that knows only of the one before.
        for _ in 0..signs {
            later_signs(&base)?;
        }
        base.delete(LOGS, doc! {})?;
        // What hosts wrote again meanwhile keeps its place, as with mongorestore.
        base.run(doc! { "insert": LOGS, "documents": backup, "ordered": false }).map(drop)
    })
}

/// Waits until both hosts have left another sign of life.
fn later_signs(base: &Base) -> Result<()> {
    let signs = || base.find(LOGS, doc! { "type": "host" });
    let beats = |signs: &[Document]| signs.iter().map(|it| it.get("beat").cloned()).collect();
    let before: Vec<_> = beats(&signs()?);
    wait::until("signs of life", Duration::from_secs(60), || {
        let now: Vec<_> = beats(&signs()?);
        Ok(now.iter().all(|beat| !before.contains(beat)).then_some(()))
    })
}
