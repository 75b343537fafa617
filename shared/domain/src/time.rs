//! Instants, spans and placements: whole milliseconds, never a float, never an overflow.

use std::ops::{Add, Sub};

/// An instant: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub i64);

impl Time {
    /// Timestamp for an operator command: now, or 1 ms after the last command's, whichever is later.
    pub fn operator_timestamp(self, last: Option<Self>) -> Self {
        last.map_or(self, |last| self.max(last + Span(1)))
    }
}

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub i64);

impl Span {
    /// A span of whole seconds.
    pub const fn seconds(seconds: u32) -> Self {
        Self(seconds as i64 * 1_000)
    }

    /// Whole seconds, rounded up, so that a client that waits this long has waited at least the span. Never negative.
    pub const fn whole_seconds_up(self) -> i64 {
        let ms = if self.0 > 0 { self.0 } else { 0 };
        ms / 1_000 + (ms % 1_000 > 0) as i64
    }

    /// Seconds with their fraction. Never negative.
    pub fn as_seconds(self) -> f64 {
        std::time::Duration::from_millis(self.0.max(0).unsigned_abs()).as_secs_f64()
    }

    /// This span multiplied by `n`, saturating.
    pub const fn times(self, n: i64) -> Self {
        Self(self.0.saturating_mul(n))
    }
}

impl Add<Span> for Time {
    type Output = Self;
    fn add(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for Time {
    type Output = Self;
    fn sub(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

impl Sub for Time {
    type Output = Span;
    fn sub(self, earlier: Self) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

/// The number of one placement of one player, used as a fencing token: a newer placement wins, a late write for an
/// older one is refused. It is the time of the placement in milliseconds since 1970, or one more than the player's
/// previous placement, whichever is greater. Always positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placement(i64);

impl Placement {
    /// The placement with this number; `None` unless `value` is positive.
    pub const fn new(value: i64) -> Option<Self> {
        if value > 0 { Some(Self(value)) } else { None }
    }

    /// The placement to give `now` to a player whose last placement was `previous`.
    pub fn next(now: Time, previous: Option<Self>) -> Self {
        let after = previous.map_or(1, |placement| placement.0.saturating_add(1));
        Self(now.0.max(after))
    }

    /// The placement as a number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The placement's number as an instant, from which the reservation time counts.
    pub const fn time(self) -> Time {
        Time(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_is_the_current_time_unless_the_clock_is_behind_the_last_placement() {
        let first = Placement::next(Time(1_000), None);
        assert_eq!(first.get(), 1_000);
        assert_eq!(Placement::next(Time(2_000), Some(first)).get(), 2_000);
        assert_eq!(Placement::next(Time(400), Some(first)).get(), 1_001);
        assert_eq!(Placement::next(Time(-5), None).get(), 1);
    }

    #[test]
    fn whole_seconds_are_rounded_up_and_seconds_are_never_negative() {
        assert_eq!(Span(1).whole_seconds_up(), 1);
        assert_eq!(Span(2_000).whole_seconds_up(), 2);
        assert_eq!(Span(-1).whole_seconds_up(), 0);
        assert_eq!([Span(1_500), Span(-1)].map(Span::as_seconds), [1.5, 0.0]);
        assert_eq!(Span(1_001).whole_seconds_up(), 2);
    }

    #[test]
    fn sums_and_differences_saturate_and_only_positive_numbers_are_placements() {
        assert_eq!((Time(5) + Span(3), Time(5) - Span(3), Time(5) - Time(3)), (Time(8), Time(2), Span(2)));
        assert_eq!((Span::seconds(2), Span(5).times(3)), (Span(2_000), Span(15)));
        assert_eq!((Time(i64::MAX) + Span(1), Time(i64::MIN) - Span(1)), (Time(i64::MAX), Time(i64::MIN)));
        assert_eq!((Time(i64::MAX) - Time(-1), Span(i64::MAX).times(2)), (Span(i64::MAX), Span(i64::MAX)));
        assert_eq!([0, -1, 1].map(|value| Placement::new(value).map(Placement::time)), [None, None, Some(Time(1))]);
    }
}
