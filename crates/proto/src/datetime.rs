//! Dates and times as XEP-0082 writes them. No clock is read here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECONDS_PER_DAY: u64 = 86_400;

/// `2002-09-10T23:08:25Z`. A time before 1970 is written as 1970's beginning.
pub fn format(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut out = seconds(since.as_secs());
    out.push('Z');
    out
}

/// `2002-09-10T23:08:25.123Z`: with milliseconds, rounded down.
pub fn format_millis(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut out = seconds(since.as_secs());
    out.push('.');
    push_digits(&mut out, u64::from(since.subsec_millis()), 3);
    out.push('Z');
    out
}

/// `2002-09-10T23:08:25.123456Z`: with microseconds, rounded down.
pub fn format_micros(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut out = seconds(since.as_secs());
    out.push('.');
    push_digits(&mut out, u64::from(since.subsec_micros()), 6);
    out.push('Z');
    out
}

/// Reads a date and time: with an optional fraction of any length, of which nine digits count, and in
/// any time zone. Leap seconds count as the second after. `None` if it is none, or before 1970.
pub fn parse(text: &str) -> Option<SystemTime> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = bytes.get(from..to)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Some(
            digits
                .iter()
                .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')),
        )
    };
    let mark = |at: usize, expected: u8| (bytes.get(at) == Some(&expected)).then_some(());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    mark(4, b'-')?;
    mark(7, b'-')?;
    mark(10, b'T')?;
    mark(13, b':')?;
    mark(16, b':')?;
    let valid = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !valid {
        return None;
    }
    let mut rest = &text[19..];
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if length == 0 {
            return None;
        }
        for digit in 0..9 {
            let digit = fraction.as_bytes()[..length]
                .get(digit)
                .map_or(0, |d| u32::from(d - b'0'));
            nanos = nanos * 10 + digit;
        }
        rest = &fraction[length..];
    }
    let days = days_before(year, month, day)?;
    let local = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
    let utc = match rest.as_bytes() {
        b"Z" => local,
        &[sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let two = |tens: u8, ones: u8| {
                (tens.is_ascii_digit() && ones.is_ascii_digit())
                    .then(|| u64::from(tens - b'0') * 10 + u64::from(ones - b'0'))
            };
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 3600 + minutes * 60;
            if sign == b'+' {
                local.checked_sub(offset)?
            } else {
                local + offset
            }
        }
        _ => return None,
    };
    UNIX_EPOCH.checked_add(Duration::new(utc, nanos))
}

/// `2002-09-10T23:08:25`
fn seconds(since_epoch: u64) -> String {
    let (days, time) = (since_epoch / SECONDS_PER_DAY, since_epoch % SECONDS_PER_DAY);
    let (year, month, day) = date(days);
    let mut out = String::with_capacity(24);
    push_digits(&mut out, year, 4);
    for (mark, value) in [
        ('-', month),
        ('-', day),
        ('T', time / 3600),
        (':', time / 60 % 60),
        (':', time % 60),
    ] {
        out.push(mark);
        push_digits(&mut out, value, 2);
    }
    out
}

fn push_digits(out: &mut String, value: u64, digits: u32) {
    for position in (0..digits).rev() {
        let digit = value / 10_u64.pow(position) % 10;
        out.push(char::from(b'0' + u8::try_from(digit).unwrap_or_default()));
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first day of a year.
fn days_before_year(year: u64) -> Option<u64> {
    let before = year.checked_sub(1)?;
    let leap_days = before / 4 - before / 100 + before / 400;
    // 719162 days lie between 0001-01-01 and 1970-01-01.
    (before * 365 + leap_days).checked_sub(719_162)
}

fn days_before(year: u64, month: u64, day: u64) -> Option<u64> {
    let months: u64 = (1..month).map(|month| days_in_month(year, month)).sum();
    Some(days_before_year(year)? + months + day - 1)
}

/// Year, month and day of a day since 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // A year is at most 366 days long, so this is never too late, and few steps too early.
    let mut year = 1970 + days / 366;
    while days_before_year(year + 1).is_some_and(|next| next <= days) {
        year += 1;
    }
    let mut rest = days - days_before_year(year).unwrap_or_default();
    let mut month = 1;
    while rest >= days_in_month(year, month) {
        rest -= days_in_month(year, month);
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(format(at(0)), "1970-01-01T00:00:00Z");
        assert_eq!(format(at(1_031_699_305)), "2002-09-10T23:08:25Z");
        assert_eq!(format(at(951_782_400)), "2000-02-29T00:00:00Z");
        assert_eq!(format(at(4_107_542_400)), "2100-03-01T00:00:00Z");
        let fraction = at(1_031_699_305) + Duration::from_millis(7);
        assert_eq!(format_millis(fraction), "2002-09-10T23:08:25.007Z");
        let micros = at(1_031_699_305) + Duration::from_nanos(7_009_999);
        assert_eq!(format_micros(micros), "2002-09-10T23:08:25.007009Z");
    }

    #[test]
    fn times_are_read_in_any_zone_and_precision() {
        let time = at(1_031_699_305);
        assert_eq!(parse("2002-09-10T23:08:25Z"), Some(time));
        assert_eq!(parse("2002-09-11T00:08:25+01:00"), Some(time));
        assert_eq!(parse("2002-09-10T15:38:25-07:30"), Some(time));
        assert_eq!(
            parse("2002-09-10T23:08:25.5Z"),
            Some(time + Duration::from_millis(500))
        );
        assert_eq!(
            parse("2002-09-10T23:08:25.1234567891Z"),
            Some(time + Duration::from_nanos(123_456_789))
        );
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "2002-09-10",
            "2002-09-10T23:08:25",
            "2002-09-10 23:08:25Z",
            "2002-02-30T00:00:00Z",
            "2001-02-29T00:00:00Z",
            "2002-13-01T00:00:00Z",
            "2002-00-01T00:00:00Z",
            "2002-09-10T24:00:00Z",
            "2002-09-10T23:60:00Z",
            "2002-09-10T23:08:25.Z",
            "2002-09-10T23:08:25+1:00",
            "2002-09-10T23:08:25Zz",
            "1969-12-31T23:59:59Z",
            "+002-09-10T23:08:25Z",
            "2002-09-10T23:08:25é",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(seconds in 0_u64..253_402_300_800) {
            proptest::prop_assert_eq!(parse(&format(at(seconds))), Some(at(seconds)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = parse(&text);
        }
    }
}
