//! The service: does its duties, and keeps one child per live session.

use std::{fmt, rc::Rc};

use futures::future::LocalBoxFuture;
use soma_runtime::{Answer, Health, Message, Reply, Scope, Service, Starting};

use crate::{
    Config, Metrics, Ports,
    desk::Desk,
    duties::{self, Duty},
};

/// The service `conversation-worker`.
pub struct ConversationWorker {
    /// What an incarnation begins with, until it begins.
    given: Option<(Config, Ports, Metrics)>,
    desk: Option<Rc<Desk>>,
}

impl fmt::Debug for ConversationWorker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ConversationWorker")
            .field("desk", &self.desk)
            .finish_non_exhaustive()
    }
}

impl ConversationWorker {
    /// Builds the service.
    pub const fn new(config: Config, ports: Ports, metrics: Metrics) -> Self {
        Self { given: Some((config, ports, metrics)), desk: None }
    }
}

impl Service for ConversationWorker {
    fn start(&mut self, scope: &Scope<Self>) -> Starting {
        if let Some((config, ports, metrics)) = self.given.take() {
            self.desk = Some(Rc::new(Desk::new(config, ports, metrics, scope.draining())));
            for duty in Duty::ALL {
                scope.notify(duty);
            }
        }
        Starting::ready()
    }

    fn health(&self) -> Health {
        let trouble = self.desk.as_ref().and_then(|desk| desk.trouble.borrow().clone());
        trouble.map_or_else(Health::ok, Health::degraded)
    }

    fn stop(&mut self, _scope: &Scope<Self>) -> LocalBoxFuture<'static, ()> {
        let desk = self.desk.clone();
        Box::pin(async move {
            if let Some(desk) = desk {
                desk.drain().await;
            }
        })
    }
}

impl Message for Duty {
    type Result = ();
}

/// A duty runs in the service's own context: its panic is the service's death.
impl Answer<Duty> for ConversationWorker {
    fn answer(&mut self, duty: Duty, scope: &Scope<Self>) -> Reply<()> {
        match &self.desk {
            Some(desk) => Reply::later(duties::perform(duty, Rc::clone(desk), scope.clone())),
            None => Reply::Now(()),
        }
    }
}
