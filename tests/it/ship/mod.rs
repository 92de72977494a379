//! What is shipped around the executable: the chart, the compose files, the image. Each is checked
//! by its own tools (helm, validators of schemas), and against the executable: every setting, port,
//! path and command in them exists.
//!
//! The tools are installed by `scripts/tools.sh` on first use. Golden files are written anew by
//! `UPDATE_GOLDEN=1`.

mod alerts;
mod binary;
mod chart;
mod chart_crds;
mod chart_facts;
mod chart_links;
mod chart_refuses;
mod chart_schema;
mod compose;
mod dashboards;
mod image;
mod prometheus;
mod tool;
mod yaml;
