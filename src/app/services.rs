//! Builds the services from the ports: the declared registry with its factories.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use prometheus::Registry as Metrics;
use soma_config::CentralizedConfig;
use soma_contract::{Owner, message::Accepted, port::store::Retention};
use soma_conversation::{ConversationWorker, Doorbell, Intake, caps::Caps, verdict::Patience};
use soma_gateway::{Accept, AfterCommit, Gateway};
use soma_housekeeping::{HousekeepingConfig, HousekeepingMetrics, Limits};
use soma_memory::{MemoryConfig, MemoryMetrics, MemoryNudges, MemoryPorts};
use soma_runtime::{Nudge, Outlet, Registry, Spec, WorkerService};
use soma_tools::{
    Tool, ToolExecutor, ToolLimits, ToolMetrics, Toolbox, ToolsConfig,
    builtin::{Echo, MemorySave, MemorySearch, Timestamp},
};

use super::{
    ports::Ports,
    registry::{CONVERSATION_WORKER, GATEWAY, HOUSEKEEPING, TOOL_EXECUTOR, UNIFIED_MEMORY, chosen},
};
use crate::adapters::tools::{
    AllowedHosts, DocumentIngest, FileAppend, FileRead, FileWrite, HttpFetch, Parsers,
    SystemLookup, WorkDir,
};

/// How often housekeeping looks.
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(30);
/// Documents that are parsed at once; each takes a thread and its memory.
const PARSERS: usize = 2;

/// The services, not yet started, and the way in.
pub(super) struct Services {
    pub(super) registry: Registry,
    pub(super) accept: Outlet<Accept>,
    pub(super) toolbox: Toolbox,
}

/// Builds every service that this process runs.
pub(super) fn build(
    config: &CentralizedConfig,
    ports: &Ports,
    owner: &Owner,
    metrics: &Metrics,
) -> anyhow::Result<Services> {
    let toolbox = toolbox(config, ports)?;
    let (wake_tools, doorbell) = (Nudge::new(), Doorbell::new());
    let nudges = MemoryNudges::default();
    let after_commit = after_commit(config, &nudges, doorbell.clone());
    let memory = memory(ports, owner, metrics, &nudges)?;
    let tools = tool_executor(config, ports, owner, metrics, &toolbox, &wake_tools)?;
    let bells = (wake_tools, doorbell);
    let conversation = conversation(config, ports, owner, metrics, &toolbox, bells)?;
    let gateway = gateway(config, ports, metrics, after_commit)?;
    let accept = gateway.link().outlet();
    let registry = Registry::new([
        memory.into(),
        tools.into(),
        conversation.into(),
        gateway.into(),
        housekeeping(config, ports, metrics)?.into(),
    ]);
    Ok(Services { registry: chosen(registry, &config.deployment)?, accept, toolbox })
}

fn toolbox(config: &CentralizedConfig, ports: &Ports) -> anyhow::Result<Toolbox> {
    let (store, policy, clock) = (&ports.store, &ports.policy, &ports.clock);
    let mut tools: Vec<Arc<dyn Tool>> = vec![
        Arc::new(Echo),
        Arc::new(Timestamp::new(Arc::clone(clock))),
        Arc::new(MemorySave::new(Arc::clone(policy), Arc::clone(clock))),
        Arc::new(MemorySearch::new(Arc::clone(&ports.memory), Arc::clone(store))),
    ];
    let work_dir = WorkDir::new(&config.tools.work_dir);
    let allowed = AllowedHosts::new(&config.tools.http_allowed_hosts);
    let parsers = match own_program() {
        Some(program) => Parsers::new(PARSERS).apart(program),
        None => Parsers::new(PARSERS),
    };
    tools.push(Arc::new(FileRead::new(work_dir.clone())));
    tools.push(Arc::new(FileWrite::new(work_dir.clone())));
    tools.push(Arc::new(FileAppend::new(work_dir)));
    tools.push(Arc::new(HttpFetch::new(
        Arc::new(SystemLookup),
        allowed,
        config.tools.http_timeout,
        parsers.clone(),
    )));
    tools.push(Arc::new(DocumentIngest::new(
        Arc::clone(store),
        Arc::clone(policy),
        Arc::clone(clock),
        parsers,
    )));
    let limits = ToolLimits {
        timeout: config.tools.timeout,
        max_output_bytes: config.tools.max_output.bytes(),
    };
    Toolbox::new(tools, limits).context("describe the tools")
}

/// Returns this very executable, also where an upgrade has replaced its file meanwhile.
fn own_program() -> Option<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() { Some(running.to_owned()) } else { std::env::current_exe().ok() }
}

fn memory(
    ports: &Ports,
    owner: &Owner,
    metrics: &Metrics,
    nudges: &MemoryNudges,
) -> anyhow::Result<Spec<soma_runtime::Supervisor>> {
    let memory_ports = MemoryPorts {
        store: Arc::clone(&ports.store),
        bus: Arc::clone(&ports.bus),
        memory: Arc::clone(&ports.memory),
        clock: Arc::clone(&ports.clock),
        owner: owner.clone(),
        io: ports.io.clone(),
    };
    let children = soma_memory::children(
        &memory_ports,
        MemoryConfig::default(),
        &MemoryMetrics::new(metrics)?,
        nudges,
    );
    Ok(UNIFIED_MEMORY.of(Spec::supervisor(UNIFIED_MEMORY.name, children)))
}

fn tool_executor(
    config: &CentralizedConfig,
    ports: &Ports,
    owner: &Owner,
    metrics: &Metrics,
    toolbox: &Toolbox,
    wake: &Nudge,
) -> anyhow::Result<Spec<ToolExecutor>> {
    let parts = Arc::new(soma_tools::Parts {
        owner: owner.clone(),
        toolbox: toolbox.clone(),
        store: Arc::clone(&ports.store),
        live: Arc::clone(&ports.live),
        bus: Arc::clone(&ports.bus),
        policy: Arc::clone(&ports.policy),
        io: ports.io.clone(),
        wake: wake.clone(),
        metrics: ToolMetrics::new(metrics)?,
        config: ToolsConfig {
            max_concurrent: config.tools.concurrency,
            heartbeat: config.turns.heartbeat,
            ..ToolsConfig::default()
        },
    });
    let spec = Spec::new(TOOL_EXECUTOR.name, move || ToolExecutor::new(Arc::clone(&parts)));
    Ok(TOOL_EXECUTOR.of(spec))
}

fn conversation(
    config: &CentralizedConfig,
    ports: &Ports,
    owner: &Owner,
    metrics: &Metrics,
    toolbox: &Toolbox,
    (wake_tools, doorbell): (Nudge, Doorbell),
) -> anyhow::Result<Spec<ConversationWorker>> {
    let turns = &config.turns;
    let settings = soma_conversation::Config {
        patience: Patience {
            attempts: turns.attempts,
            waiting: turns.wait_limit,
            ..Patience::default()
        },
        caps: Caps {
            model_steps: turns.max_steps,
            tool_calls: turns.max_tool_calls,
            work: turns.max_work,
            tokens_per_day: turns.tokens_per_day,
        },
        concurrency: turns.concurrency,
        heartbeat: turns.heartbeat,
        session_idle: turns.session_idle,
        context_tokens: usize::try_from(config.model.context_tokens)?,
        recall_limit: usize::try_from(config.memory.recall_limit)?,
        personas: Arc::clone(&ports.personas),
        intake: intake(config),
        ..soma_conversation::Config::default()
    };
    let ports = soma_conversation::Ports {
        store: Arc::clone(&ports.store),
        live: Arc::clone(&ports.live),
        bus: Arc::clone(&ports.bus),
        model: Arc::clone(&ports.model),
        memory: Arc::clone(&ports.memory),
        policy: Arc::clone(&ports.policy),
        tools: Arc::new(toolbox.clone()),
        counter: Arc::clone(&ports.counter),
        clock: Arc::clone(&ports.clock),
        ids: Arc::clone(&ports.ids),
        io: ports.io.clone(),
        wake_tools,
        doorbell,
        owner: owner.clone(),
    };
    let metrics = soma_conversation::Metrics::new(metrics)?;
    let spec = Spec::new(CONVERSATION_WORKER.name, move || {
        ConversationWorker::new(settings.clone(), ports.clone(), metrics.clone())
    });
    Ok(CONVERSATION_WORKER.of(spec))
}

fn intake(config: &CentralizedConfig) -> Intake {
    let intake = Intake { backlog_total: config.gateway.backlog_total, ..Intake::default() };
    // Records of a bus that waits for them are received at once.
    if config.bus.bootstrap_servers.is_some() {
        Intake { pause: Duration::ZERO, ..intake }
    } else {
        intake
    }
}

fn gateway(
    config: &CentralizedConfig,
    ports: &Ports,
    metrics: &Metrics,
    after_commit: AfterCommit,
) -> anyhow::Result<Spec<Gateway>> {
    let settings = soma_gateway::Config {
        backlog_per_tenant: config.gateway.backlog_per_tenant,
        backlog_total: config.gateway.backlog_total,
        ..soma_gateway::Config::default()
    };
    let ports = soma_gateway::Ports {
        store: Arc::clone(&ports.store),
        live: Arc::clone(&ports.live),
        io: ports.io.clone(),
        after_commit,
    };
    let metrics = soma_gateway::Metrics::new(metrics)?;
    let spec = Spec::new(GATEWAY.name, move || {
        Gateway::new(settings.clone(), ports.clone(), metrics.clone())
    });
    Ok(GATEWAY.of(spec).bound(4_096))
}

/// On the local bus, who accepted a message tells the worker itself. Otherwise the record of the
/// message does, so that whichever replica receives it runs the turn; the relay is told to carry it.
fn after_commit(
    config: &CentralizedConfig,
    nudges: &MemoryNudges,
    doorbell: Doorbell,
) -> AfterCommit {
    if config.bus.bootstrap_servers.is_none() {
        return Arc::new(move |accepted: &[Accepted]| {
            doorbell.ring(accepted.iter().map(|message| message.session_id));
        });
    }
    let relay = nudges.outbox.clone();
    Arc::new(move |_accepted: &[Accepted]| relay.wake())
}

fn housekeeping(
    config: &CentralizedConfig,
    ports: &Ports,
    metrics: &Metrics,
) -> anyhow::Result<Spec<WorkerService<soma_housekeeping::Housekeeping>>> {
    let retention = Retention {
        idempotency: config.retention.idempotency,
        dead_letters: config.retention.dead_letters,
        inbox: config.retention.inbox,
        done_steps: config.retention.steps,
        memory_tombstones: config.retention.memory_tombstones,
    };
    let settings =
        HousekeepingConfig { period: HOUSEKEEPING_PERIOD, retention, limits: Limits::default() };
    let metrics = HousekeepingMetrics::new(metrics)?;
    let store = Arc::clone(&ports.store);
    Ok(HOUSEKEEPING.of(soma_housekeeping::spec(store, ports.io.clone(), settings, metrics)))
}
