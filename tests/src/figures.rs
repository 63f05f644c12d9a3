//! Figures of measurements: percentiles, and what processes use.

use std::collections::HashMap;
use std::fs;

/// Ticks of the times in `/proc/PID/stat`: `USER_HZ`, which is 100 on every Linux that has this file for programs.
const TICKS_A_SECOND: f64 = 100.0;

/// The value that this part of the sorted values does not exceed.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index into far fewer values than a float counts exactly"
)]
pub fn percentile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted
        .get(at.clamp(1, sorted.len().max(1)) - 1)
        .copied()
        .unwrap_or(f64::NAN)
}

/// A count as a float, for rates.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a measurement are far below what a float counts exactly"
)]
pub fn float(count: usize) -> f64 {
    count as f64
}

/// A process and all of its descendants that live.
pub fn family(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let processes = fs::read_dir("/proc").expect("Linux");
    for entry in processes.flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that has ended meanwhile is nobody's child.
        if let Some(parent) = stat(process).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(process) = family.get(next) {
        family.extend(children.remove(process).unwrap_or_default());
        next += 1;
    }
    family
}

/// Seconds of CPU time, in programs and in the kernel, that these processes have used; they must live.
pub fn cpu_seconds(processes: &[u32]) -> f64 {
    let ticks = processes.iter().map(|&process| {
        let fields = stat(process).unwrap_or_else(|| panic!("process {process} has ended"));
        let times = fields[11..13].iter();
        let ticks = times.map(|time| time.parse::<f64>().expect("a number"));
        ticks.sum::<f64>()
    });
    ticks.sum::<f64>() / TICKS_A_SECOND
}

/// Memory of these processes in KiB; what they share with others counts in part (PSS).
pub fn memory_kib(processes: &[u32]) -> f64 {
    let sizes = processes.iter().map(|process| {
        let file = format!("/proc/{process}/smaps_rollup");
        let rollup = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let size = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        size.unwrap_or(0.0_f64)
    });
    sizes.sum()
}

/// The fields of `/proc/PID/stat` from the third on, which follow the program's name.
fn stat(process: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}
