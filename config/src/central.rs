//! The configuration as a whole: reads the sections, asks the rules, reports.

use crate::{
    fault::{ConfigFault, ConfigFaults, Findings, Warning},
    key::{self, Key, Secrecy},
    layers::{self, Settled},
    report::{Report, Row},
    rules::{self, Rule},
    section::Section,
    sections::{
        Auth, Bus, Client, Deployment, Gateway, Live, Memory, Model, Policy, RateLimit, Retention,
        Shutdown, Storage, Supervision, Telemetry, Tools, Turns,
    },
    sources::Sources,
};

macro_rules! centralized {
    ($( $field:ident: $section:ident, )+) => {
        /// The configuration of the process, a plain struct for each part. The default is that of
        /// `dev` before its profile: every value as the reference has it.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct CentralizedConfig {
            $(
                #[doc = concat!("See [`", stringify!($section), "`].")]
                pub $field: $section,
            )+
        }

        impl CentralizedConfig {
            pub(crate) fn keys_of_sections() -> Vec<Key> {
                [$( $section::keys() ),+].concat()
            }

            /// Title and introduction of each section.
            pub(crate) fn titles() -> Vec<(&'static str, &'static str)> {
                vec![$( ($section::TITLE, $section::ABOUT) ),+]
            }

            fn read(settled: &Settled, findings: &mut Findings) -> Self {
                Self { $( $field: read_section(settled, findings), )+ }
            }

            /// The value of each key as it may be shown, in the order of the keys.
            fn shown(&self) -> Vec<(&'static str, Option<String>)> {
                [$( self.$field.shown() ),+].concat()
            }
        }
    };
}

centralized! {
    deployment: Deployment,
    storage: Storage,
    bus: Bus,
    live: Live,
    policy: Policy,
    model: Model,
    memory: Memory,
    gateway: Gateway,
    auth: Auth,
    rate_limit: RateLimit,
    tools: Tools,
    turns: Turns,
    supervision: Supervision,
    shutdown: Shutdown,
    telemetry: Telemetry,
    retention: Retention,
    client: Client,
}

impl CentralizedConfig {
    /// Reads the configuration. Apart from `sources` it reads only the files that `NAME_FILE`
    /// variables name.
    ///
    /// # Errors
    /// All that is wrong with the configuration, at once.
    pub fn load(sources: Sources) -> Result<Loaded, ConfigFaults> {
        let mut findings = Findings::default();
        let settled = layers::settle(sources, &mut findings);
        let mut config = Self::read(&settled, &mut findings);
        config.place_work_dir(&settled);
        let report = report(&config, &settled);
        apply_rules(&config, &report, &mut findings);
        let warnings = findings.conclude()?;
        Ok(Loaded { config, warnings, report })
    }

    /// The one default that follows from another setting.
    fn place_work_dir(&mut self, settled: &Settled) {
        if !settled.contains_key("SA01_TOOLS_WORK_DIR") {
            self.tools.work_dir = self.storage.data_dir.join("files");
        }
    }
}

/// A configuration that is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: CentralizedConfig,
    /// What is odd about it, to be logged.
    pub warnings: Vec<Warning>,
    report: Report,
}

impl Loaded {
    /// Every key with its value in effect, secrets masked, and where it came from.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

fn read_section<T: Section>(settled: &Settled, findings: &mut Findings) -> T {
    let keys = || key::keys().iter().filter(|key| key.section == T::TITLE);
    let given = keys().filter_map(|key| {
        settled.get(key.name).map(|given| (key.field.to_owned(), given.text.clone()))
    });
    let (section, misread) = match T::read(given.collect()) {
        Ok(read) => read,
        Err(error) => {
            let fault = error.to_string();
            findings.fault(unreadable(T::TITLE, fault));
            return T::default();
        }
    };
    for (name, reason) in misread {
        if let Some(key) = key::find(name) {
            findings.fault(fault_of(key, settled, reason));
        }
    }
    if let Err(errors) = section.validate() {
        let errors = errors.field_errors();
        for key in keys().filter(|key| !findings.is_faulty(key.name)).collect::<Vec<_>>() {
            for error in errors.get(key.field).copied().into_iter().flatten() {
                let reason = error.message.as_ref().unwrap_or(&error.code).to_string();
                findings.fault(fault_of(key, settled, reason));
            }
        }
    }
    section
}

/// A value that cannot be used, told with what to write instead.
fn fault_of(key: &Key, settled: &Settled, reason: String) -> ConfigFault {
    let given = settled.get(key.name);
    ConfigFault {
        name: key.name.to_owned(),
        value: given.map(|given| key.secrecy.mask(&given.text)),
        origin: given.map(|given| given.origin.clone()),
        reason,
        way_out: key.way_out(),
    }
}

/// Fields record their faults instead of failing, so this tells of a fault in the sections.
fn unreadable(title: &str, reason: String) -> ConfigFault {
    ConfigFault {
        name: format!("section {title}"),
        value: None,
        origin: None,
        reason,
        way_out: "report this as a bug".to_owned(),
    }
}

fn report(config: &CentralizedConfig, settled: &Settled) -> Report {
    let rows = key::keys().iter().zip(config.shown()).map(|(key, (_, value))| {
        // A path or a text is masked no further, but must not forge a line.
        let value = value.map(|value| Secrecy::Open.mask(&value));
        Row::new(key, value, settled.get(key.name).map(|given| &given.origin))
    });
    Report { rows: rows.collect() }
}

fn apply_rules(config: &CentralizedConfig, report: &Report, findings: &mut Findings) {
    let broken = |rule: &&Rule, findings: &Findings| {
        !rule.keys.iter().any(|key| findings.is_faulty(key)) && !(rule.holds)(config)
    };
    let faults: Vec<_> = rules::FAULTS.iter().filter(|rule| broken(rule, findings)).collect();
    let warnings: Vec<_> = rules::WARNINGS.iter().filter(|rule| broken(rule, findings)).collect();
    for rule in faults {
        findings.fault(broken_rule(rule, report));
    }
    for rule in warnings {
        let name = rule.keys.first().copied().unwrap_or_default();
        findings.warn(name, format!("{}; {}", rule.reason, rule.way_out));
    }
}

fn broken_rule(rule: &Rule, report: &Report) -> ConfigFault {
    let name = rule.keys.first().copied().unwrap_or_default();
    let row = report.rows.iter().find(|row| row.name == name);
    let value = row.and_then(|row| row.value.clone());
    let origin = row.filter(|row| row.value.is_some()).map(|row| row.origin.clone());
    ConfigFault {
        name: name.to_owned(),
        value,
        origin,
        reason: rule.reason.to_owned(),
        way_out: rule.way_out.to_owned(),
    }
}
