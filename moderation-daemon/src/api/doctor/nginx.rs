//! The section `nginx`: whether it asks, whether it may, and whether what it tells
//! afterwards arrives.

use std::{fs, io, path::Path};

use nix::unistd::Group;

use super::{Context, Finding, Grade};
use crate::{config::Socket, nginx::Snippet};

/// How many datagrams wait in a socket of the kernel's at most.
const QUEUE: &str = "/proc/sys/net/unix/max_dgram_qlen";
/// With so many, about one line in a hundred is lost at full speed; with ten it is a third.
const ENOUGH: u64 = 512;

pub(super) fn findings(context: &Context) -> Vec<Finding> {
    let Some(settings) = &context.config.nginx else {
        return vec![Finding::ok("configuration", "nginx does not ask (nginx.enabled)")];
    };
    let metrics = &context.metrics;
    let (asked, seen) = (metrics.nginx.asked(), Snippet::now(&metrics.nginx));
    let mut findings = vec![group(&settings.socket), questions(asked), snippet(seen)];
    match &settings.hearing {
        None => findings.push(Finding::ok("log", "nothing is heard (nginx.outcomes)")),
        Some(_) => {
            findings.push(queue(&length(Path::new(QUEUE))));
            findings.push(lines(metrics.log.lines.get(), metrics.log.lost.get()));
        }
    }
    findings
}

fn group(socket: &Socket) -> Finding {
    let path = socket.path.display();
    match &socket.group {
        None => Finding::ok("group", format!("only the daemon's user and root open {path}")),
        Some(name) if Group::from_name(name).is_ok_and(|group| group.is_some()) => {
            Finding::ok("group", format!("{name} opens {path}"))
        }
        Some(name) => {
            let text = format!("there is no group {name}: nginx cannot open {path}");
            let advice = format!(
                "groupadd --system {name}; put nginx's user and the daemon's into it; restart both"
            );
            Finding::wrong("group", Grade::Problem, text, advice)
        }
    }
}

/// What to do where nginx has not this daemon's snippet.
const INCLUDE: &str = "include moderation-http.conf and moderation-server.conf of this version, \
                       nginx -t, systemctl reload nginx; see docs/nginx.md";

fn questions(asked: u64) -> Finding {
    if asked > 0 {
        return Finding::ok("questions", format!("nginx has asked {asked} times"));
    }
    Finding::wrong("questions", Grade::Warning, "nginx has not asked since the start", INCLUDE)
}

fn snippet(seen: Snippet) -> Finding {
    let wrong = |text: String, advice| Finding::wrong("snippet", Grade::Warning, text, advice);
    match seen {
        Snippet::Current => Finding::ok("snippet", "nginx has the one of this version"),
        Snippet::NeverSeen => wrong("not seen since the start".to_owned(), INCLUDE),
        Snippet::Older(0) => wrong("nginx has one that does not say its version".into(), INCLUDE),
        Snippet::Older(version) => {
            wrong(format!("nginx has an old one, version {version}"), INCLUDE)
        }
        Snippet::Newer(version) => {
            let advice = "restart moderationd if it was updated, or update it";
            wrong(
                format!("nginx has one that is newer than this daemon, version {version}"),
                advice,
            )
        }
    }
}

fn length(file: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    text.trim().parse().map_err(|_| io::Error::other(format!("{text:?} is no number")))
}

fn queue(length: &io::Result<u64>) -> Finding {
    let advice = format!(
        "sysctl -w net.unix.max_dgram_qlen={ENOUGH}, also in /etc/sysctl.d; then restart \
         moderationd: a socket keeps the length that it was made with"
    );
    match length {
        Ok(length) if *length >= ENOUGH => {
            Finding::ok("queue", format!("{length} lines of nginx's log can wait"))
        }
        Ok(length) => {
            let text = format!("only {length} lines of nginx's log can wait; more are thrown away");
            Finding::wrong("queue", Grade::Warning, text, advice)
        }
        Err(error) => {
            let text = format!("net.unix.max_dgram_qlen cannot be read: {error}");
            Finding::wrong("queue", Grade::Warning, text, advice)
        }
    }
}

fn lines(read: u64, lost: u64) -> Finding {
    if lost == 0 {
        return Finding::ok("log", format!("{read} lines were read, none was lost"));
    }
    let text = format!("{read} lines were read, of {lost} requests none came");
    let advice = "raise the queue's length; give servers with an access_log of their own the line \
                  of moderation-http.conf, too";
    Finding::wrong("log", Grade::Warning, text, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_is_too_short_is_told_with_what_to_do() {
        let cases = [
            (Ok(512), Grade::Ok),
            (Ok(4_096), Grade::Ok),
            (Ok(511), Grade::Warning),
            (Ok(10), Grade::Warning),
            (Err(io::Error::other("no")), Grade::Warning),
        ];
        for (length, grade) in cases {
            let finding = queue(&length);
            assert_eq!(finding.grade, grade, "{length:?}");
            let told = finding.advice.is_some_and(|it| it.contains("net.unix.max_dgram_qlen=512"));
            assert_eq!(told, grade != Grade::Ok, "{length:?}");
        }
    }

    #[test]
    fn the_kernel_says_how_long_the_queue_is() {
        assert!(length(Path::new(QUEUE)).is_ok_and(|length| length > 0));
        assert!(length(Path::new("/proc/version")).is_err(), "no number");
        assert!(length(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn a_group_that_does_not_exist_is_a_problem() {
        let socket = |group: Option<&str>| Socket {
            path: "/run/moderation/nginx.sock".into(),
            group: group.map(str::to_owned),
            max_connections: 1,
        };
        assert_eq!(group(&socket(None)).grade, Grade::Ok);
        assert_eq!(group(&socket(Some("root"))).grade, Grade::Ok);
        assert_eq!(group(&socket(Some("no-such-group-here"))).grade, Grade::Problem);
    }

    #[test]
    fn a_snippet_that_is_not_this_daemon_s_is_told_with_what_to_do() {
        assert_eq!(snippet(Snippet::Current).grade, Grade::Ok);
        let cases = [
            (Snippet::NeverSeen, "not seen", "include moderation-http.conf"),
            (Snippet::Older(0), "does not say", "include moderation-http.conf"),
            (Snippet::Older(1), "old one, version 1", "include moderation-http.conf"),
            (Snippet::Newer(3), "newer than this daemon, version 3", "update"),
        ];
        for (seen, text, advice) in cases {
            let finding = snippet(seen);
            assert_eq!(finding.grade, Grade::Warning, "{seen:?}");
            assert!(finding.text.contains(text), "{}", finding.text);
            assert!(finding.advice.is_some_and(|it| it.contains(advice)), "{seen:?}");
        }
    }

    #[test]
    fn silence_and_losses_are_warnings() {
        assert_eq!((questions(1).grade, questions(0).grade), (Grade::Ok, Grade::Warning));
        assert_eq!((lines(7, 0).grade, lines(7, 1).grade), (Grade::Ok, Grade::Warning));
    }
}
