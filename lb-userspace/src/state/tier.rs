//! Which members of a set carry new dialogs, and with which weights (RFC 2782, RFC 3263 §4.4).

/// A member of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Lower is preferred.
    pub priority: u16,
    pub weight: u16,
    /// Up, ready, not busy and still configured.
    pub usable: bool,
}

/// The tier in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// Lowest priority value that has a usable member; `None` if no member is usable.
    pub priority: Option<u16>,
    /// Index into the members, and weight from 1.
    pub contenders: Vec<(usize, u16)>,
}

/// The usable members of the best tier. Weight 0 is standby: no share while a usable member of the
/// tier has weight; otherwise the zero-weight members share equally.
#[must_use]
pub fn active(members: &[Member]) -> Active {
    let priority = members.iter().filter(|m| m.usable).map(|m| m.priority).min();
    let tier: Vec<_> = members
        .iter()
        .enumerate()
        .filter(|(_, m)| m.usable && Some(m.priority) == priority)
        .map(|(index, m)| (index, m.weight))
        .collect();
    let contenders = if tier.iter().any(|&(_, weight)| weight > 0) {
        tier.into_iter().filter(|&(_, weight)| weight > 0).collect()
    } else {
        tier.into_iter().map(|(index, _)| (index, 1)).collect()
    };
    Active { priority, contenders }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(spec: &[(u16, u16, bool)]) -> Vec<Member> {
        spec.iter().map(|&(priority, weight, usable)| Member { priority, weight, usable }).collect()
    }

    fn check(spec: &[(u16, u16, bool)], priority: Option<u16>, contenders: &[(usize, u16)]) {
        let expected = Active { priority, contenders: contenders.to_vec() };
        assert_eq!(active(&members(spec)), expected, "{spec:?}");
    }

    #[test]
    fn the_lowest_priority_value_with_a_usable_member_carries_everything() {
        check(&[(10, 5, true), (20, 9, true), (10, 7, true)], Some(10), &[(0, 5), (2, 7)]);
        check(&[(10, 5, false), (20, 9, true), (10, 7, true)], Some(10), &[(2, 7)]);
        check(&[(10, 5, false), (20, 9, true), (10, 7, false)], Some(20), &[(1, 9)]);
        check(&[(20, 5, true), (0, 9, true)], Some(0), &[(1, 9)]);
    }

    #[test]
    fn weight_zero_is_standby_inside_its_tier() {
        check(&[(10, 0, true), (10, 3, true)], Some(10), &[(1, 3)]);
        // Its tier goes before the next one.
        check(&[(10, 0, true), (10, 3, false), (20, 8, true)], Some(10), &[(0, 1)]);
        check(&[(10, 0, true), (10, 0, true), (10, 0, false)], Some(10), &[(0, 1), (1, 1)]);
    }

    #[test]
    fn without_a_usable_member_there_is_no_tier() {
        check(&[(10, 5, false), (20, 0, false)], None, &[]);
        check(&[], None, &[]);
    }
}
