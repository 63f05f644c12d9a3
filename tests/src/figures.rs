//! Figures of measurements: percentiles, what processes use, and whether all has come once and in order.

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

/// What became of things that are numbered from 0 in the order in which they should arrive.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    seen: Vec<bool>,
    /// The number that should come next.
    next: usize,
    /// How many have arrived, each counted once.
    pub received: usize,
    /// How many have arrived again.
    pub doubled: usize,
    /// How many came before one with a lower number, or after one with a higher one.
    pub out_of_order: usize,
}

impl Arrivals {
    /// Counts one; whether it is new.
    pub fn count(&mut self, number: usize) -> bool {
        if self.seen.len() <= number {
            self.seen.resize(number + 1, false);
        }
        if std::mem::replace(&mut self.seen[number], true) {
            self.doubled += 1;
            return false;
        }
        if number != self.next {
            self.out_of_order += 1;
        }
        self.next = self.next.max(number + 1);
        self.received += 1;
        true
    }

    /// Adds what another one has counted.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.doubled += other.doubled;
        self.out_of_order += other.out_of_order;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(numbers: &[usize]) -> [usize; 3] {
        let mut arrivals = Arrivals::default();
        for &number in numbers {
            arrivals.count(number);
        }
        [arrivals.received, arrivals.doubled, arrivals.out_of_order]
    }

    #[test]
    fn what_is_lost_doubled_or_out_of_order_is_noticed() {
        assert_eq!(count(&[0, 1, 2, 3]), [4, 0, 0]);
        assert_eq!(count(&[0, 1, 3]), [3, 0, 1]);
        assert_eq!(count(&[0, 1, 1, 2]), [3, 1, 0]);
        assert_eq!(count(&[0, 2, 1, 3]), [4, 0, 2]);
        assert_eq!(count(&[0, 1, 2, 0]), [3, 1, 0]);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        let at = [0.0, 0.5, 0.51, 0.99].map(|part| percentile(&sorted, part).to_bits());
        assert_eq!(at, [1.0, 2.0, 3.0, 4.0].map(f64::to_bits));
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_process_has_children_time_and_memory() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep is part of every Linux");
        let family = family(std::process::id());
        let memory = memory_kib(&[child.id()]);
        child.kill().expect("it runs");
        child.wait().expect("it is our child");
        assert!(family.contains(&child.id()), "{family:?}");
        assert!(memory > 0.0);
        assert!(cpu_seconds(&[std::process::id()]) >= 0.0);
    }
}
