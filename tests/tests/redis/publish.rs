//! Messages between hosts: who listens hears them in their order, is told what may have been
//! missed, and hears again when Redis is back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use moderation_daemon::sharing::Names;
use moderation_daemon::store::redis::{Heard, MESSAGE_BYTES, Messages, Redis as Link, Settings};
use moderation_tests::redis::{Cluster, Redis};
use tokio::runtime::Runtime;

use crate::script::is_here;

const PATIENCE: Duration = Duration::from_secs(20);
/// Nothing more is on its way.
const QUIET: Duration = Duration::from_millis(200);

fn link(uris: Vec<String>) -> Result<Link> {
    Ok(Link::new(&Settings::of(uris, Names::new("test")))?)
}

fn runtime() -> Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    Ok(runtime.worker_threads(1).enable_all().build()?)
}

async fn next(messages: &mut Messages) -> Result<Heard> {
    let heard = tokio::time::timeout(PATIENCE, messages.next()).await;
    heard.context("nothing was heard")?.context("nobody listens any more")
}

/// Says it until it can be said.
async fn say(link: &Link, text: &[u8]) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while link.publish("bans", text).await.is_err() {
        if Instant::now() > until {
            bail!("nobody takes it");
        }
    }
    Ok(())
}

#[test]
fn what_one_host_says_the_others_hear_in_its_order_and_again_after_a_restart() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let mut redis = Redis::start()?;
    let (one, other) = (link(vec![redis.uri()])?, link(vec![redis.uri()])?);
    runtime()?.block_on(async {
        let mut messages = other.listen("bans");
        assert_eq!(next(&mut messages).await?, Heard::Listening);
        // Any bytes are a message.
        let all: Vec<Vec<u8>> = (0..50_u8).map(|it| vec![it, 0, b'\r', b'\n', 0xff]).collect();
        for text in &all {
            say(&one, text).await?;
        }
        for text in all {
            assert_eq!(next(&mut messages).await?, Heard::Message(text));
        }
        redis.kill()?;
        assert!(one.publish("bans", b"lost").await.is_err());
        redis.launch()?;
        assert_eq!(next(&mut messages).await?, Heard::Deaf);
        assert_eq!(next(&mut messages).await?, Heard::Listening, "something may be missing");
        say(&one, b"back").await?;
        assert_eq!(next(&mut messages).await?, Heard::Message(b"back".to_vec()));
        Ok(())
    })
}

#[test]
fn who_does_not_read_misses_messages_and_is_told_how_many() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    const MANY: usize = 3_000;
    let redis = Redis::start()?;
    let (one, other) = (link(vec![redis.uri()])?, link(vec![redis.uri()])?);
    runtime()?.block_on(async {
        let mut messages = other.listen("bans");
        assert_eq!(next(&mut messages).await?, Heard::Listening);
        for number in 0..MANY {
            say(&one, number.to_string().as_bytes()).await?;
        }
        // None of ours, and not taken for one.
        redis.ask(&["PUBLISH", "test:bans", &"x".repeat(MESSAGE_BYTES + 1)])?;
        // What was missed is told before what comes after it: something has to come.
        let (mut heard, mut missed, mut said) = (0, 0, 0);
        while heard + missed < MANY + 1 + said {
            match tokio::time::timeout(QUIET, messages.next()).await {
                Ok(Some(Heard::Message(_))) => heard += 1,
                Ok(Some(Heard::Missed(count))) => missed += usize::try_from(count)?,
                Ok(other) => bail!("it listened all the time, and heard {other:?}"),
                Err(_) if said == 100 => bail!("{heard} heard, {missed} missed"),
                Err(_) => {
                    say(&one, b"after").await?;
                    said += 1;
                }
            }
        }
        assert_eq!(heard + missed, MANY + 1 + said, "each was heard or missed");
        assert!(missed > 0 && heard > 0, "{heard} heard, {missed} missed");
        Ok(())
    })
}

#[test]
fn on_a_cluster_it_does_not_matter_who_listens_where() -> Result<()> {
    if !is_here() {
        return Ok(());
    }
    let cluster = Cluster::start()?;
    let mut uris = cluster.uris();
    let one = link(uris.clone())?;
    uris.rotate_left(1);
    let other = link(uris)?;
    runtime()?.block_on(async {
        let mut messages = other.listen("bans");
        assert_eq!(next(&mut messages).await?, Heard::Listening);
        say(&one, b"hello").await?;
        assert_eq!(next(&mut messages).await?, Heard::Message(b"hello".to_vec()));
        Ok(())
    })
}
