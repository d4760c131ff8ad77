//! What a message does to the state of its dialog's entry (RFC 3261 §12, §15; RFC 6665 §4).
//!
//! States are those of [`State::bits`]; 0 = no entry. One entry stands for all dialogs of a Call-ID:
//! an INVITE that was forked and answered twice, or a subscription beside a call, share it. So an
//! ended entry comes back to life when a request that only a live dialog sends is seen.

use crate::{
    dialog::State,
    sip::{Code, Method},
};

const UNCONFIRMED: u64 = State::Unconfirmed.bits();
const RINGING: u64 = State::Ringing.bits();
const ENDED: u64 = State::Ended.bits();
const CALL: u64 = State::ConfirmedInvite.bits();
const OTHER: u64 = State::ConfirmedOther.bits();

/// The state after a client's message that is worth an entry. `cseq` is the number of the method
/// that a final response answers; `in_dialog`: an INVITE has a To tag, which matters where it begins
/// an entry or finds one that is unconfirmed or ended.
#[inline(always)]
#[must_use]
pub const fn by_client(message: Code, cseq: u32, in_dialog: bool, state: u64) -> u64 {
    if message.is(Method::Bye) {
        return ENDED;
    }
    if message.is_success() {
        let single = answers(cseq, Method::Options)
            || answers(cseq, Method::Message)
            || answers(cseq, Method::Notify)
            || answers(cseq, Method::Register)
            || answers(cseq, Method::Publish);
        // A backend asked whether the client is there, or told it something: nothing follows.
        // Were such entries confirmed, those of a farm that pings its phones would fill the table.
        return if single && state == UNCONFIRMED { ENDED } else { after_success(cseq, state) };
    }
    if message.is_refusal() {
        return after_refusal(cseq, state);
    }
    if state == 0 || (state == ENDED && continues(message)) || rings_anew(message, in_dialog, state)
    {
        begun(message, in_dialog)
    } else {
        state
    }
}

/// The state after a backend's message; `state` is that of its own entry. 0 = the message makes
/// none. `cseq` is the number of the method that a response answers; `in_dialog`: a
/// request has a To tag.
#[inline(always)]
#[must_use]
pub const fn by_backend(message: Code, cseq: u32, in_dialog: bool, state: u64) -> u64 {
    if message.is(Method::Bye) {
        return if state == 0 { 0 } else { ENDED };
    }
    if message.is_request() && !message.is(Method::Ack) {
        return if state == 0
            || (state == ENDED && (!in_dialog || continues(message)))
            || rings_anew(message, in_dialog, state)
        {
            begun(message, in_dialog)
        } else if state == RINGING && in_dialog && message.is(Method::Invite) {
            // Only an answered call is invited again; all else may be said while it rings.
            CALL
        } else if state == UNCONFIRMED && in_dialog && !is_early(message) {
            // The backend's own request inside a dialog proves that the dialog stands.
            OTHER
        } else {
            state
        };
    }
    if message.is_success() {
        return after_success(cseq, state);
    }
    if message.is_refusal() {
        return after_refusal(cseq, state);
    }
    if (state != 0 && state != UNCONFIRMED) || !message.is_lasting() {
        state
    } else if answers(cseq, Method::Invite) {
        RINGING
    } else if answers(cseq, Method::Subscribe) {
        UNCONFIRMED
    } else {
        state
    }
}

/// An INVITE that was refused is sent again, with credentials or by another branch.
#[inline(always)]
const fn rings_anew(message: Code, in_dialog: bool, state: u64) -> bool {
    state == UNCONFIRMED && message.is(Method::Invite) && !in_dialog
}

/// The state that a request gives an entry.
#[inline(always)]
const fn begun(message: Code, in_dialog: bool) -> u64 {
    // A refusal of what is said inside a dialog does not end it: such an INVITE is no ringing call.
    if message.is(Method::Invite) && !in_dialog { RINGING } else { UNCONFIRMED }
}

/// The state after a final response other than 2xx, from whichever side. A call that is refused,
/// cancelled or challenged rings no more; but another branch of it may, or it is tried again with
/// credentials.
#[inline(always)]
const fn after_refusal(cseq: u32, state: u64) -> u64 {
    if state == RINGING && answers(cseq, Method::Invite) { UNCONFIRMED } else { state }
}

/// The state after a 2xx, from whichever side.
#[inline(always)]
const fn after_success(cseq: u32, state: u64) -> u64 {
    if answers(cseq, Method::Invite) {
        // A 200 that is repeated, or crosses a BYE, does not bring the call back.
        if state == ENDED { state } else { CALL }
    } else if answers(cseq, Method::Subscribe) {
        if state == CALL || state == RINGING { state } else { OTHER }
    } else if answers(cseq, Method::Refer) {
        // Who transfers a call and hangs up may do so before the 202 is here.
        if state == UNCONFIRMED { OTHER } else { state }
    } else {
        state
    }
}

/// Requests that, sent after a BYE, say that another dialog of the Call-ID lives.
#[inline(always)]
const fn continues(message: Code) -> bool {
    message.forms_dialog() || message.is(Method::Update)
}

/// Requests that are sent inside a dialog before the INVITE is answered (RFC 3262, RFC 3311).
#[inline(always)]
const fn is_early(message: Code) -> bool {
    message.is(Method::Prack) || message.is(Method::Update)
}

#[inline(always)]
const fn answers(cseq: u32, method: Method) -> bool {
    cseq == method as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::Message::{Request, Response};

    const NONE: u64 = 0;
    const STATES: [u64; 5] = [UNCONFIRMED, RINGING, ENDED, CALL, OTHER];

    fn client(message: Method, state: u64) -> u64 {
        by_client(Code::new(Request(message)), 0, true, state)
    }

    fn client_begins(message: Method, state: u64) -> u64 {
        by_client(Code::new(Request(message)), 0, false, state)
    }

    fn client_answers(status: u16, method: Method, state: u64) -> u64 {
        by_client(Code::new(Response(status)), method as u32, false, state)
    }

    /// A request of a backend, inside a dialog.
    fn backend(message: Method, state: u64) -> u64 {
        by_backend(Code::new(Request(message)), 0, true, state)
    }

    fn backend_begins(message: Method, state: u64) -> u64 {
        by_backend(Code::new(Request(message)), 0, false, state)
    }

    fn backend_answers(status: u16, method: Method, state: u64) -> u64 {
        by_backend(Code::new(Response(status)), method as u32, false, state)
    }

    #[test]
    fn a_bye_of_either_side_ends_and_one_without_an_entry_makes_none() {
        for state in STATES {
            assert_eq!(client(Method::Bye, state), ENDED);
            assert_eq!(backend(Method::Bye, state), ENDED);
        }
        assert_eq!(backend(Method::Bye, NONE), NONE);
    }

    #[test]
    fn an_answered_invite_is_a_call_whoever_sent_it() {
        for state in [UNCONFIRMED, RINGING, CALL, OTHER] {
            assert_eq!(client_answers(200, Method::Invite, state), CALL);
            assert_eq!(backend_answers(200, Method::Invite, state), CALL);
        }
        assert_eq!(backend_answers(200, Method::Invite, NONE), CALL);
    }

    #[test]
    fn a_200_repeated_after_the_bye_ends_nothing_and_begins_nothing() {
        assert_eq!(client_answers(200, Method::Invite, ENDED), ENDED);
        assert_eq!(backend_answers(200, Method::Invite, ENDED), ENDED);
        assert_eq!(client_answers(200, Method::Bye, ENDED), ENDED);
        assert_eq!(backend_answers(200, Method::Bye, ENDED), ENDED);
    }

    #[test]
    fn provisional_answers_begin_and_confirm_nothing_more() {
        for status in [101, 180, 183, 199] {
            assert_eq!(backend_answers(status, Method::Invite, NONE), RINGING);
            assert_eq!(backend_answers(status, Method::Subscribe, NONE), UNCONFIRMED);
            assert_eq!(backend_answers(status, Method::Register, NONE), NONE);
            for state in STATES {
                // Another branch of a refused call may ring.
                let rings = if state == UNCONFIRMED { RINGING } else { state };
                assert_eq!(backend_answers(status, Method::Invite, state), rings);
                assert_eq!(backend_answers(status, Method::Subscribe, state), state);
                assert_eq!(client_answers(status, Method::Invite, state), state);
            }
        }
        assert_eq!(backend_answers(100, Method::Invite, NONE), NONE);
    }

    #[test]
    fn a_new_invite_rings_until_it_is_refused_or_challenged_and_when_it_is_tried_again() {
        for state in [NONE, UNCONFIRMED, RINGING, ENDED] {
            assert_eq!(client_begins(Method::Invite, state), RINGING);
            assert_eq!(backend_begins(Method::Invite, state), RINGING);
        }
        assert_eq!(client_begins(Method::Subscribe, NONE), UNCONFIRMED);
        for status in [300, 302, 401, 407, 486, 487, 503, 603] {
            assert_eq!(backend_answers(status, Method::Invite, RINGING), UNCONFIRMED);
            assert_eq!(client_answers(status, Method::Invite, RINGING), UNCONFIRMED);
        }
        // Whatever else is said while it rings.
        for method in [Method::Prack, Method::Update, Method::Info, Method::Cancel, Method::Ack] {
            assert_eq!(client(method, RINGING), RINGING);
            assert_eq!(backend(method, RINGING), RINGING);
            for status in [200, 202, 481, 487] {
                assert_eq!(client_answers(status, method, RINGING), RINGING);
                assert_eq!(backend_answers(status, method, RINGING), RINGING);
            }
        }
        assert_eq!(backend_answers(200, Method::Subscribe, RINGING), RINGING);
        assert_eq!(
            backend(Method::Invite, RINGING),
            CALL,
            "only an answered call is invited again"
        );
    }

    #[test]
    fn refusals_change_nothing_that_does_not_ring() {
        for status in [300, 302, 401, 407, 486, 487, 503, 603] {
            for state in [UNCONFIRMED, ENDED, CALL, OTHER] {
                assert_eq!(backend_answers(status, Method::Invite, state), state);
                assert_eq!(client_answers(status, Method::Invite, state), state);
                assert_eq!(client_answers(status, Method::Options, state), state);
            }
            assert_eq!(backend_answers(status, Method::Invite, NONE), NONE);
        }
    }

    #[test]
    fn single_requests_of_a_backend_leave_nothing_that_lasts() {
        for method in [Method::Options, Method::Message, Method::Notify, Method::Register] {
            assert_eq!(backend_begins(method, NONE), UNCONFIRMED);
            assert_eq!(client_answers(200, method, UNCONFIRMED), ENDED);
            // The next one with the same Call-ID finds its place again.
            assert_eq!(backend_begins(method, ENDED), UNCONFIRMED);
            // Inside a call they are part of it.
            assert_eq!(client_answers(200, method, CALL), CALL);
            assert_eq!(client_answers(200, method, OTHER), OTHER);
        }
    }

    #[test]
    fn answers_to_requests_of_an_early_dialog_do_not_confirm_it() {
        for method in [Method::Prack, Method::Update, Method::Info, Method::Cancel] {
            assert_eq!(client_answers(200, method, UNCONFIRMED), UNCONFIRMED);
            assert_eq!(backend_answers(200, method, UNCONFIRMED), UNCONFIRMED);
            assert_eq!(backend_answers(200, method, NONE), NONE);
        }
        for method in [Method::Prack, Method::Update, Method::Ack] {
            assert_eq!(backend(method, UNCONFIRMED), UNCONFIRMED);
        }
    }

    #[test]
    fn a_request_of_a_backend_inside_a_dialog_proves_it() {
        for method in [Method::Notify, Method::Invite, Method::Refer, Method::Info, Method::Other] {
            assert_eq!(backend(method, NONE), UNCONFIRMED);
            assert_eq!(backend(method, UNCONFIRMED), OTHER);
            assert_eq!(backend(method, CALL), CALL);
            let again = if method == Method::Invite { RINGING } else { UNCONFIRMED };
            assert_eq!(backend_begins(method, UNCONFIRMED), again);
        }
        assert_eq!(backend(Method::Ack, NONE), NONE);
    }

    #[test]
    fn a_subscription_is_confirmed_by_its_200_or_by_the_notify_that_overtakes_it() {
        assert_eq!(backend_answers(202, Method::Subscribe, UNCONFIRMED), OTHER);
        assert_eq!(backend_answers(200, Method::Subscribe, NONE), OTHER);
        assert_eq!(client_answers(200, Method::Subscribe, UNCONFIRMED), OTHER);
        let early = backend(Method::Notify, UNCONFIRMED);
        assert_eq!(client_answers(200, Method::Notify, early), OTHER);
        assert_eq!(backend_answers(200, Method::Subscribe, early), OTHER);
        // A transfer inside a call leaves it a call.
        assert_eq!(backend_answers(202, Method::Refer, CALL), CALL);
        assert_eq!(backend_answers(202, Method::Refer, UNCONFIRMED), OTHER);
        assert_eq!(backend_answers(202, Method::Refer, NONE), NONE);
        assert_eq!(backend_answers(202, Method::Refer, ENDED), ENDED);
    }

    #[test]
    fn an_ended_entry_lives_again_when_a_dialog_of_its_call_id_goes_on() {
        for method in [Method::Invite, Method::Subscribe, Method::Refer, Method::Update] {
            assert_eq!(client(method, ENDED), UNCONFIRMED);
            assert_eq!(backend(method, ENDED), UNCONFIRMED);
        }
        // What follows a BYE by nature brings nothing back.
        for method in [Method::Ack, Method::Cancel] {
            assert_eq!(client(method, ENDED), ENDED);
        }
        for method in [Method::Ack, Method::Notify, Method::Info] {
            assert_eq!(backend(method, ENDED), ENDED, "the outcome of a transfer");
        }
        // The subscription beside the call is refreshed.
        assert_eq!(client_answers(200, Method::Subscribe, ENDED), OTHER);
    }

    #[test]
    fn all_else_leaves_a_live_entry_as_it_is() {
        for method in [Method::Ack, Method::Cancel, Method::Info, Method::Options, Method::Invite] {
            for state in [UNCONFIRMED, CALL, OTHER] {
                assert_eq!(client(method, state), state);
            }
        }
    }
}
