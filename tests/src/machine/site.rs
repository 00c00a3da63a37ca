//! A chat host in a machine: its web server, and two visitors in a network namespace
//! within, who ask it and ping it all the time and write down who answered when. Knows
//! nothing of bans.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Luggage, Machine};

/// Who will be banned.
pub const ABUSER: &str = "192.0.2.66";
/// Who will not.
pub const BYSTANDER: &str = "192.0.2.77";
/// The interface through which they come.
pub const INTERFACE: &str = "lan0";

/// For somebody to be answered, or to give up several times.
const PATIENCE: Duration = Duration::from_secs(30);

const FILES: [(&str, &str); 8] = [
    ("install.sh", include_str!("site/install.sh")),
    ("lab-interface.service", include_str!("site/lab-interface.service")),
    ("lab-address.service", include_str!("site/lab-address.service")),
    ("lab-visitor@.service", include_str!("site/lab-visitor@.service")),
    ("lab-pinger@.service", include_str!("site/lab-pinger@.service")),
    ("nginx.service", include_str!("site/nginx.service")),
    ("lab-visit", include_str!("site/lab-visit")),
    ("lab-serve", include_str!("site/lab-serve")),
];

/// How somebody asks: for a page, which the web server answers, or by echo requests,
/// which the kernel answers as soon as there is a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `GET /`
    Visit,
    /// ICMP echo.
    Ping,
}

impl Way {
    fn log(self, who: &str) -> String {
        let last = who.rsplit('.').next().unwrap_or(who);
        match self {
            Self::Visit => format!("/var/log/lab-visits-{last}"),
            Self::Ping => format!("/var/log/lab-pings-{last}"),
        }
    }

    /// What lines of an answer, and of none, contain.
    fn marks(self) -> (&'static str, &'static str) {
        match self {
            Self::Visit => ("yes", "no"),
            Self::Ping => ("bytes from", "no answer"),
        }
    }
}

/// A moment by the machine's clock, in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment(String);

/// How often somebody asked in a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Was answered.
    pub answered: u32,
    /// Was not.
    pub ignored: u32,
}

/// Packs what [`build`] needs.
pub fn pack(luggage: &mut Luggage) -> Result<()> {
    FILES.iter().try_for_each(|(name, text)| luggage.write(name, text))
}

/// Makes a chat host of a machine and waits until both visitors are served. From then
/// on it is one after each boot.
pub fn build(machine: &mut Machine) -> Result<()> {
    machine.run("sh /mnt/install.sh")?;
    let start = Moment("0".to_owned());
    for who in [ABUSER, BYSTANDER] {
        await_answer(machine, Way::Visit, who, &start)?;
        await_answer(machine, Way::Ping, who, &start)?;
    }
    Ok(())
}

/// Now.
pub fn now(machine: &mut Machine) -> Result<Moment> {
    Ok(Moment(machine.run("date +%s.%N")?.trim().to_owned()))
}

/// What came of somebody's asking since then.
pub fn asked(machine: &mut Machine, way: Way, who: &str, since: &Moment) -> Result<Asked> {
    let (yes, no) = way.marks();
    let script = format!(
        "awk -F'[][]' -v since={} '$2 > since && /{yes}/ {{ yes++ }} $2 > since && /{no}/ {{ no++ }} \
         END {{ print yes + 0, no + 0 }}' {}",
        since.0,
        way.log(who)
    );
    let printed = machine.run(&script)?;
    let (answered, ignored) = printed.trim().split_once(' ').context("two numbers")?;
    Ok(Asked { answered: answered.parse()?, ignored: ignored.parse()? })
}

/// Waits until somebody was answered after that moment.
pub fn await_answer(machine: &mut Machine, way: Way, who: &str, since: &Moment) -> Result<()> {
    await_count(machine, way, who, since, |asked| asked.answered > 0)
        .with_context(|| format!("{who} gets no answer to its {way:?}"))
}

/// Waits until somebody has asked several times since that moment, and makes sure that
/// nothing answered.
pub fn ensure_ignored(machine: &mut Machine, way: Way, who: &str, since: &Moment) -> Result<()> {
    await_count(machine, way, who, since, |asked| asked.ignored >= 3 || asked.answered > 0)?;
    let asked = asked(machine, way, who, since)?;
    ensure!(asked.answered == 0, "{who} was answered {} times ({way:?})", asked.answered);
    Ok(())
}

fn await_count(
    machine: &mut Machine,
    way: Way,
    who: &str,
    since: &Moment,
    is_enough: impl Fn(Asked) -> bool,
) -> Result<()> {
    let patience = PATIENCE * machine.slowness();
    crate::wait::until(&format!("{way:?}s of {who}"), patience, || {
        Ok(is_enough(asked(machine, way, who, since)?).then_some(()))
    })
}
