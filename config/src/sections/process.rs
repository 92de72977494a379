//! Sections about the process itself: what runs, how it is watched, ended and observed.

use std::time::Duration;

use crate::{
    check,
    section::section,
    value::{LogFormat, Mode, Names, ServerUrl},
};

/// The services that `SA01_SERVICES` can name.
pub const SERVICES: [&str; 5] =
    ["unified-memory", "tool-executor", "conversation-worker", "gateway", "housekeeping"];

section! {
    /// What runs in this process.
    Deployment {
        /// Which profile applies, and what is insisted on: `prod` does not start without its
        /// servers and authentication.
        "SA01_DEPLOYMENT_MODE" mode: Mode = Mode::Dev;

        /// The services that run in this process, so that a role can scale alone; all of them if
        /// not set. A subset needs PostgreSQL and Kafka.
        #[validate(custom(function = check::services))]
        "SA01_SERVICES" services: Option<Names> = None, example "gateway,housekeeping";
    }
}

impl Deployment {
    /// Whether only some of the services run in this process.
    pub fn is_subset(&self) -> bool {
        self.services.as_ref().is_some_and(|services| services.len() < SERVICES.len())
    }

    /// Whether this service runs in this process.
    pub fn runs(&self, service: &str) -> bool {
        self.services.as_ref().is_none_or(|services| services.iter().any(|name| name == service))
    }
}

section! {
    /// How services are watched and restarted.
    Supervision {
        /// How long a thread may take to return from one poll before its service counts as hung.
        #[validate(custom(function = check::positive))]
        "SA01_SUPERVISION_HANG_LIMIT" hang_limit: Duration = Duration::from_secs(10);

        /// How often a service that is not critical may be restarted within the window before it
        /// is `failed`.
        "SA01_SUPERVISION_RESTART_BUDGET" restart_budget: u32 = 5;

        /// The sliding window of the restart budget.
        #[validate(custom(function = check::positive))]
        "SA01_SUPERVISION_RESTART_WINDOW" restart_window: Duration = Duration::from_mins(1);

        /// How often a critical service may be restarted within the window before the process
        /// halts; `0`: its first death halts it.
        "SA01_SUPERVISION_CRITICAL_BUDGET" critical_budget: u32 = 0;
    }
}

section! {
    /// How the process ends, counted from the signal.
    Shutdown {
        /// How long requests are still taken after `/ready` says no; `0s` where something outside
        /// waits already.
        "SA01_SHUTDOWN_LAME_DUCK" lame_duck: Duration = Duration::from_secs(5);

        /// When everything has to be drained.
        "SA01_SHUTDOWN_DRAIN" drain: Duration = Duration::from_secs(40);

        /// When the watchdog ends the process.
        "SA01_SHUTDOWN_KILL" kill: Duration = Duration::from_secs(45);
    }
}

section! {
    /// Logs and traces.
    Telemetry {
        /// Where traces are sent, over OTLP; nowhere if not set.
        #[validate(custom(function = check::http))]
        "SA01_OTLP_ENDPOINT" otlp_endpoint: Option<ServerUrl> = None, example "http://collector:4317";

        /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`), and after
        /// commas other levels for single parts, such as `info,soma_gateway=debug`.
        #[validate(custom(function = check::log_filter))]
        "SA01_LOG_LEVEL" log_level: String = "info".to_owned();

        /// The shape of a log line; `auto` is pretty on a terminal and JSON otherwise.
        "SA01_LOG_FORMAT" log_format: LogFormat = LogFormat::Auto;
    }
}

section! {
    /// How long what is done is kept. Events and turns stay until their session is deleted.
    Retention {
        /// How long an `Idempotency-Key` answers with its first answer.
        #[validate(custom(function = check::positive))]
        "SA01_RETENTION_IDEMPOTENCY" idempotency: Duration = Duration::from_hours(72);

        /// How long a dead letter can be replayed.
        #[validate(custom(function = check::positive))]
        "SA01_RETENTION_DEAD_LETTERS" dead_letters: Duration = days(30);

        /// How long the finished steps of a turn are kept.
        #[validate(custom(function = check::positive))]
        "SA01_RETENTION_STEPS" steps: Duration = days(7);

        /// How long Kafka keeps the records of the topics we create; existing topics keep theirs.
        #[validate(custom(function = check::positive))]
        "SA01_RETENTION_TOPICS" topics: Duration = days(7);

        /// How long a record from elsewhere is remembered as seen; longer than any topic keeps it.
        "SA01_RETENTION_INBOX" inbox: Duration = days(14);

        /// How long a deleted memory is remembered as deleted; longer than any topic keeps its
        /// writes.
        "SA01_RETENTION_MEMORY_TOMBSTONES" memory_tombstones: Duration = days(30);
    }
}

const fn days(days: u64) -> Duration {
    Duration::from_hours(days * 24)
}
