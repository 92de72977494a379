//! What a single value must be, beyond its type: the custom functions of the validator.

use std::{borrow::Cow, time::Duration};

use validator::{ValidateUrl, ValidationError};

use crate::{nearest, sections::SERVICES, value::ServerUrl};

type Checked = Result<(), ValidationError>;

fn refuse(code: &'static str, reason: impl Into<Cow<'static, str>>) -> Checked {
    Err(ValidationError::new(code).with_message(reason.into()))
}

/// Accepts a duration other than zero.
pub(crate) fn positive(duration: &Duration) -> Checked {
    if duration.is_zero() { refuse("positive", "must not be zero") } else { Ok(()) }
}

/// Accepts the URL of an HTTP server.
pub(crate) fn http(url: &ServerUrl) -> Checked {
    url_of(url, &["http", "https"])
}

/// Accepts the URL of a PostgreSQL database.
pub(crate) fn postgres(url: &ServerUrl) -> Checked {
    url_of(url, &["postgresql", "postgres"])
}

/// Accepts the URL of a Redis server.
pub(crate) fn redis(url: &ServerUrl) -> Checked {
    url_of(url, &["redis", "rediss"])
}

fn url_of(url: &ServerUrl, schemes: &[&str]) -> Checked {
    if !schemes.contains(&url.scheme().as_str()) {
        return refuse("url", format!("does not begin with `{}://`", schemes.join("://` or `")));
    }
    if url.validate_url() { Ok(()) } else { refuse("url", "is not a URL") }
}

/// Accepts a list of `host:port`.
pub(crate) fn brokers(list: &str) -> Checked {
    let is_broker = |broker: &str| {
        let (host, port) = broker.trim().rsplit_once(':').unwrap_or_default();
        !host.is_empty() && !host.contains("://") && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    if list.split(',').all(is_broker) {
        Ok(())
    } else {
        refuse("brokers", "is not a list of `host:port`, separated by commas")
    }
}

/// Accepts what may be the beginning of a topic's name.
pub(crate) fn topic_prefix(prefix: &str) -> Checked {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if prefix.len() <= 100 && prefix.chars().all(is_allowed) {
        Ok(())
    } else {
        refuse("topic_prefix", "is not made of at most 100 letters, digits, `.`, `_` and `-`")
    }
}

/// Accepts service names that exist, each once.
pub(crate) fn services(names: &[String]) -> Checked {
    for (place, name) in names.iter().enumerate() {
        if !SERVICES.contains(&name.as_str()) {
            return refuse("services", unknown_service(name));
        }
        if names.iter().take(place).any(|earlier| earlier == name) {
            return refuse("services", format!("names `{name}` twice"));
        }
    }
    Ok(())
}

fn unknown_service(name: &str) -> String {
    let services = SERVICES.join("`, `");
    match nearest::nearest(name, SERVICES) {
        Some(near) => format!("names `{name}`, which is no service; did you mean `{near}`?"),
        None => format!("names `{name}`, which is no service; there are `{services}`"),
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Accepts levels, alone or for a part: `info,soma_gateway=debug`.
pub(crate) fn log_filter(filter: &str) -> Checked {
    let is_directive = |directive: &str| {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        LEVELS.iter().any(|known| level.trim().eq_ignore_ascii_case(known))
    };
    if filter.split(',').all(is_directive) {
        Ok(())
    } else {
        refuse("log_filter", format!("uses a level that is none of `{}`", LEVELS.join("`, `")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_a_url_of_its_kind() {
        let accepts = |check: fn(&ServerUrl) -> Checked, url| check(&ServerUrl::new(url)).is_ok();
        assert!(accepts(http, "https://opa:8181"));
        assert!(!accepts(http, "opa:8181"));
        assert!(!accepts(http, "http://"));
        assert!(accepts(postgres, "postgres://soma:pw@db/soma"));
        assert!(!accepts(postgres, "sqlite://x.db"));
        assert!(accepts(redis, "rediss://cache/0"));
        assert!(!accepts(redis, "http://cache"));
    }

    #[test]
    fn brokers_are_hosts_with_ports() {
        assert!(brokers("kafka:9092").is_ok());
        assert!(brokers("a:1, [::1]:2").is_ok());
        for bad in ["kafka", "kafka:", ":9092", "a:1,", "PLAINTEXT://a:1", "a:0", "a:99999"] {
            assert!(brokers(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_topic_prefix_is_the_beginning_of_a_name() {
        assert!(topic_prefix("").is_ok());
        assert!(topic_prefix("staging.eu-1_").is_ok());
        for bad in ["a b", "a/", "\u{e9}", &"x".repeat(101)] {
            assert!(topic_prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn services_are_known_and_named_once() {
        let check = |names: &[&str]| {
            services(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
                .err()
                .and_then(|error| error.message)
                .unwrap_or_default()
        };
        assert_eq!(check(&["gateway", "housekeeping"]), "");
        assert!(check(&["gatway"]).contains("did you mean `gateway`?"));
        assert!(check(&["llm"]).contains("there are `unified-memory`"));
        assert!(check(&["gateway", "gateway"]).contains("twice"));
    }

    #[test]
    fn a_log_filter_is_made_of_levels() {
        assert!(log_filter("INFO").is_ok());
        assert!(log_filter("warn,soma_gateway=debug, sqlx=off").is_ok());
        assert!(log_filter("inof").is_err());
        assert!(log_filter("info,").is_err());
    }
}
