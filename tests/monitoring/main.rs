//! What operators watch: metrics, their documentation, Prometheus' rules and Grafana's dashboards, each
//! against live servers and a real Prometheus.

mod dashboards;
mod load;
mod metrics_table;
mod prometheus;
mod rules;
