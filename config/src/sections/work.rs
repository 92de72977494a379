//! Sections about the work: turns and tools.

use std::{path::PathBuf, time::Duration};

use crate::{
    check,
    section::section,
    value::{Names, Size},
};

section! {
    /// What a turn may do besides talking.
    Tools {
        /// The directory that file tools work in, a folder for each tenant; `files` in the data
        /// directory if not set.
        "SA01_TOOLS_WORK_DIR" work_dir: PathBuf = PathBuf::from("./data/files");

        /// The hosts that the HTTP tool may call although their addresses are private, each as
        /// `wiki.internal` or with all below it as `*.internal`; none if not set. Public hosts may
        /// always be called.
        "SA01_TOOLS_HTTP_ALLOWED_HOSTS" http_allowed_hosts: Names = Names::new(),
            example "wiki.internal,*.lab.internal";

        /// How long an HTTP call of a tool may take.
        #[validate(custom(function = check::positive))]
        "SA01_TOOLS_HTTP_TIMEOUT" http_timeout: Duration = Duration::from_secs(15);

        /// How long one call of a tool may take.
        #[validate(custom(function = check::positive))]
        "SA01_TOOLS_TIMEOUT" timeout: Duration = Duration::from_mins(1);

        /// The longest result of a tool; what is longer is cut.
        #[validate(range(min = Size::from_kib(1), message = "must be 1KiB or more"))]
        "SA01_TOOLS_MAX_OUTPUT" max_output: Size = Size::from_kib(64);

        /// How many calls of tools run at once in this process.
        #[validate(range(min = 1, max = 65_536, message = "must be from 1 to 65536"))]
        "SA01_TOOLS_CONCURRENCY" concurrency: usize = 16;
    }
}

section! {
    /// One message and everything that is done to answer it.
    Turns {
        /// How long a turn or a tool's step stays with an owner that no longer renews it.
        #[validate(custom(function = check::positive))]
        "SA01_TURNS_LEASE" lease: Duration = Duration::from_secs(30);

        /// How often a turn that makes progress renews its lease.
        #[validate(custom(function = check::positive))]
        "SA01_TURNS_HEARTBEAT" heartbeat: Duration = Duration::from_secs(10);

        /// How many steps a turn may take.
        #[validate(range(min = 1, message = "must be 1 or more"))]
        "SA01_TURNS_MAX_STEPS" max_steps: u32 = 25;

        /// How many calls of tools a turn may make; `0`: none.
        "SA01_TURNS_MAX_TOOL_CALLS" max_tool_calls: u32 = 50;

        /// How long a turn may work, waiting apart.
        #[validate(custom(function = check::positive))]
        "SA01_TURNS_MAX_WORK" max_work: Duration = Duration::from_mins(10);

        /// How often a turn is tried without progress before it ends as failed.
        #[validate(range(min = 1, message = "must be 1 or more"))]
        "SA01_TURNS_ATTEMPTS" attempts: u32 = 5;

        /// How long a turn waits for what cannot be reached before it ends as failed.
        "SA01_TURNS_WAIT_LIMIT" wait_limit: Duration = Duration::from_mins(15);

        /// How many tokens a tenant may use in a day; `0`: any number.
        "SA01_TURNS_TOKENS_PER_DAY" tokens_per_day: u64 = 0;

        /// How long a session may be idle before its actor goes; it comes back with the next
        /// message.
        #[validate(custom(function = check::positive))]
        "SA01_TURNS_SESSION_IDLE" session_idle: Duration = Duration::from_mins(5);

        /// How many turns run at once in this process.
        #[validate(range(min = 1, max = 65_536, message = "must be from 1 to 65536"))]
        "SA01_TURNS_CONCURRENCY" concurrency: usize = 256;

        /// A JSON file with an array of personas, each `{persona_id, prompt, model?, tools?}`, that
        /// every tenant has; a tenant's own persona of the same id wins.
        "SA01_TURNS_PERSONAS" personas: Option<PathBuf> = None,
            example "/etc/somaagent/personas.json";
    }
}
