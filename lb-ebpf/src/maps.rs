//! Every map, and the one doorway to each.
//!
//! The controller writes all of them but DIALOGS, TOUCHED and the counters, one whole record or one
//! word at a time; see `lb_common::maps`. Sizes here are the smallest; the loader sets them from
//! the configuration.

use core::arch::asm;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_CPU, BPF_F_MMAPABLE, xdp_md},
    helpers::generated::bpf_perf_event_output,
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, PerfEventByteArray},
};
use lb_common::{
    backend::{Binding, Endpoint, ROUTES as MAX_ROUTES, Route},
    clock::Clock,
    dialog, fragment,
    index::Slot,
    maps::{PortSet, Settings},
    service::{INTERFACES as MAX_INTERFACES, Interface, Listener, Name},
    slow::{Desk, Record},
    stats::{BindingStats, EVENTS as EVENT_COUNT, Load},
    table::{Choice, MEMBERS as MAX_MEMBERS, MemberOrder, Members, SLOTS, Table},
    verdict::{Decision, VERDICTS as VERDICT_COUNT, Verdict},
    watch,
};

use crate::query::Query;

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static CLOCK: Array<Clock> = Array::with_max_entries(1, 0);
#[map]
static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static PORTS: Array<PortSet> = Array::with_max_entries(2, 0);
#[map]
static LISTENER_INDEX: Array<Slot> = Array::with_max_entries(1, 0);
#[map]
static ENDPOINT_INDEX: Array<Slot> = Array::with_max_entries(1, 0);
#[map]
static HOST_INDEX: Array<Slot> = Array::with_max_entries(1, 0);
#[map]
static RULE_INDEX: Array<Slot> = Array::with_max_entries(1, 0);
#[map]
static ADDRESS_INDEX: Array<Slot> = Array::with_max_entries(1, 0);
#[map]
static SENDER_INDEX: Array<Slot> = Array::with_max_entries(1, 0);
#[map]
static INTERFACES: Array<Interface> = Array::with_max_entries(MAX_INTERFACES, 0);
#[map]
static LISTENERS: Array<Listener> = Array::with_max_entries(1, 0);
#[map]
static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(1, 0);
#[map]
static BINDINGS: Array<Binding> = Array::with_max_entries(1, 0);
#[map]
static ROUTES: Array<Route> = Array::with_max_entries(MAX_ROUTES, 0);
#[map]
static CHOICES: Array<Choice> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static MEMBERS: Array<Members> = Array::with_max_entries(1, 0);
#[map]
static TABLES: Array<Table> = Array::with_max_entries(1, 0);
#[map]
static TOUCHED: Array<[u8; SLOTS]> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static DIALOGS: Array<dialog::Line> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static FRAGMENTS: LruHashMap<fragment::Key, fragment::Record> = LruHashMap::with_max_entries(1, 0);
#[map]
static FRAGMENT_COUNT: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static FRAGMENT_DESK: PerCpuArray<Pending> = PerCpuArray::with_max_entries(1, 0);
#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(VERDICT_COUNT as u32, 0);
#[map]
static EVENTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(EVENT_COUNT as u32, 0);
#[map]
static BINDING_STATS: PerCpuArray<BindingStats> = PerCpuArray::with_max_entries(1, 0);
#[map]
static LOADS: Array<Load> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static TURNS: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
#[map]
static QUERY: PerCpuArray<Query> = PerCpuArray::with_max_entries(1, 0);
#[map]
static DECISION: Array<Decision> = Array::with_max_entries(1, 0);
#[map]
static SLOW_PATH: PerfEventByteArray = PerfEventByteArray::new(0);
#[map]
static DESK: PerCpuArray<Desk> = PerCpuArray::with_max_entries(1, 0);
#[map]
static WATCH: Array<watch::Filters> = Array::with_max_entries(1, 0);
#[map]
static WATCH_DESK: PerCpuArray<watch::Desk> = PerCpuArray::with_max_entries(1, 0);
#[map]
static WATCHED: PerfEventByteArray = PerfEventByteArray::new(0);

#[map]
static MEMBER_ORDERS: Array<[MemberOrder; MAX_MEMBERS]> = Array::with_max_entries(1, 0);

// Read by the controller only: what a restarted one rebuilds its ids from.
#[map]
static SERVICE_NAMES: Array<Name> = Array::with_max_entries(1, 0);
#[map]
static SET_NAMES: Array<Name> = Array::with_max_entries(1, 0);
#[map]
static BACKEND_NAMES: Array<Name> = Array::with_max_entries(1, 0);

/// Constants that the loader sets; the verifier reads them and drops what they rule out.
mod constant {
    /// Slots of the indices minus one.
    #[unsafe(no_mangle)]
    pub(super) static LISTENER_MASK: u32 = 0;
    #[unsafe(no_mangle)]
    pub(super) static ENDPOINT_MASK: u32 = 0;
    #[unsafe(no_mangle)]
    pub(super) static HOST_MASK: u32 = 0;
    #[unsafe(no_mangle)]
    pub(super) static RULE_MASK: u32 = 0;
    #[unsafe(no_mangle)]
    pub(super) static ADDRESS_MASK: u32 = 0;
    #[unsafe(no_mangle)]
    pub(super) static SENDER_MASK: u32 = 0;
    /// Lines of the dialog table minus one.
    #[unsafe(no_mangle)]
    pub(super) static DIALOG_MASK: u32 = 0;
    /// 1 = write each decision to DECISION and take the time from CLOCK.
    #[unsafe(no_mangle)]
    pub(super) static RECORD: u8 = 0;
    /// 1 = show packets to those who watch.
    #[unsafe(no_mangle)]
    pub(super) static WATCH_ON: u8 = 0;
}

/// A constant as the loader set it, not as it was compiled.
#[inline(always)]
fn constant<T: Copy>(value: &'static T) -> T {
    // SAFETY: a static is always valid to read.
    unsafe { (value as *const T).read_volatile() }
}

#[inline(always)]
pub fn listener_mask() -> u32 {
    constant(&constant::LISTENER_MASK)
}

#[inline(always)]
pub fn endpoint_mask() -> u32 {
    constant(&constant::ENDPOINT_MASK)
}

#[inline(always)]
pub fn host_mask() -> u32 {
    constant(&constant::HOST_MASK)
}

#[inline(always)]
pub fn rule_mask() -> u32 {
    constant(&constant::RULE_MASK)
}

#[inline(always)]
pub fn address_mask() -> u32 {
    constant(&constant::ADDRESS_MASK)
}

#[inline(always)]
pub fn sender_mask() -> u32 {
    constant(&constant::SENDER_MASK)
}

#[inline(always)]
pub fn dialog_mask() -> u32 {
    constant(&constant::DIALOG_MASK)
}

#[inline(always)]
pub fn records() -> bool {
    constant(&constant::RECORD) != 0
}

#[inline(always)]
pub fn watches() -> bool {
    constant(&constant::WATCH_ON) != 0
}

/// A record that the controller writes. Readers may see one half-written record for an instant;
/// the controller therefore writes records before it publishes their ids.
#[inline(always)]
fn row<T>(map: &'static Array<T>, index: u32) -> Result<&'static T, Verdict> {
    map.get(index).ok_or(Verdict::MissingMap)
}

#[inline(always)]
pub fn settings() -> Result<&'static Settings, Verdict> {
    row(&SETTINGS, 0)
}

#[inline(always)]
pub fn clock() -> Result<&'static Clock, Verdict> {
    row(&CLOCK, 0)
}

#[inline(always)]
pub fn heartbeat() -> Result<u64, Verdict> {
    row(&HEARTBEAT, 0).copied()
}

#[inline(always)]
pub fn set_heartbeat(jiffies: u64) {
    if let Some(cell) = HEARTBEAT.get_ptr_mut(0) {
        // SAFETY: the pointer is to the one value of the map, checked for null by `get_ptr_mut`.
        unsafe { cell.write_volatile(jiffies) };
    }
}

/// True if `port` (host order) is in port set `set`.
#[inline(always)]
pub fn has_port(set: u32, port: u16) -> bool {
    match PORTS.get(set) {
        Some(words) => words[(port >> 6) as usize & 1023] >> (port & 63) & 1 != 0,
        None => false,
    }
}

#[inline(always)]
pub fn listener_slot(index: u32) -> Option<&'static Slot> {
    LISTENER_INDEX.get(index)
}

#[inline(always)]
pub fn endpoint_slot(index: u32) -> Option<&'static Slot> {
    ENDPOINT_INDEX.get(index)
}

#[inline(always)]
pub fn host_slot(index: u32) -> Option<&'static Slot> {
    HOST_INDEX.get(index)
}

#[inline(always)]
pub fn rule_slot(index: u32) -> Option<&'static Slot> {
    RULE_INDEX.get(index)
}

#[inline(always)]
pub fn address_slot(index: u32) -> Option<&'static Slot> {
    ADDRESS_INDEX.get(index)
}

#[inline(always)]
pub fn sender_slot(index: u32) -> Option<&'static Slot> {
    SENDER_INDEX.get(index)
}

#[inline(always)]
pub fn interface(row: u32) -> Option<&'static Interface> {
    INTERFACES.get(row)
}

#[inline(always)]
pub fn listener(id: u16) -> Result<&'static Listener, Verdict> {
    LISTENERS.get(u32::from(id)).ok_or(Verdict::MissingListener)
}

#[inline(always)]
pub fn endpoint(id: u16) -> Result<&'static Endpoint, Verdict> {
    ENDPOINTS.get(u32::from(id)).ok_or(Verdict::MissingEndpoint)
}

#[inline(always)]
pub fn binding(id: u16) -> Result<&'static Binding, Verdict> {
    BINDINGS.get(u32::from(id)).ok_or(Verdict::MissingBinding)
}

#[inline(always)]
pub fn route(row: u32) -> Option<&'static Route> {
    ROUTES.get(row)
}

#[inline(always)]
pub fn choice(id: u16) -> Result<Choice, Verdict> {
    let cell = CHOICES.get_ptr(u32::from(id)).ok_or(Verdict::MissingMap)?;
    // SAFETY: a valid map value; volatile, as the controller swaps it at any time and it must be
    // read once.
    Ok(unsafe { cell.read_volatile() })
}

#[inline(always)]
pub fn members(id: u32) -> Result<&'static Members, Verdict> {
    row(&MEMBERS, id)
}

/// Priorities and weights of a member list.
#[inline(always)]
pub fn member_orders(id: u32) -> Result<&'static [MemberOrder; MAX_MEMBERS], Verdict> {
    row(&MEMBER_ORDERS, id)
}

/// Live dialogs of a binding.
#[inline(always)]
pub fn load(binding: u16) -> Result<u64, Verdict> {
    let cell = LOADS.get_ptr(u32::from(binding)).ok_or(Verdict::MissingMap)?;
    // SAFETY: a valid map value of two words that are read apart, each by one load.
    let load = unsafe {
        Load {
            changes: (&raw const (*cell).changes).read_volatile(),
            base: (&raw const (*cell).base).read_volatile(),
        }
    };
    Ok(load.dialogs())
}

/// Counts a dialog more, or with -1 a dialog less, of a binding.
#[inline(always)]
pub fn add_load(binding: u16, change: i64) {
    if let Some(cell) = LOADS.get_ptr_mut(u32::from(binding)) {
        // SAFETY: an aligned word of a map value; every writer of it, on whatever CPU, adds
        // atomically. (The target has no atomic types: it lacks compare-exchange before v3.)
        unsafe {
            asm!(
                "lock *(u64 *)({cell} + 0) += {change}",
                cell = in(reg) &raw mut (*cell).changes,
                change = in(reg) change,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// This CPU's room for a question to [`crate::policy`].
#[inline(always)]
pub fn query() -> Result<*mut Query, Verdict> {
    QUERY.get_ptr_mut(0).ok_or(Verdict::MissingMap)
}

/// The number of this choice's next turn on this CPU.
#[inline(always)]
pub fn next_turn(choice: u16) -> Result<u32, Verdict> {
    let cell = TURNS.get_ptr_mut(u32::from(choice)).ok_or(Verdict::MissingMap)?;
    // SAFETY: a checked pointer to this CPU's copy of the value; an XDP program is not interrupted
    // by another on its CPU.
    Ok(unsafe {
        let turn = *cell;
        *cell = turn.wrapping_add(1);
        turn
    })
}

#[inline(always)]
pub fn table(id: u32) -> Result<&'static Table, Verdict> {
    row(&TABLES, id)
}

/// When the slot of a service last changed its owner; 0 = never, else 1 + epoch.
#[inline(always)]
pub fn touched(service: u16, slot: u32) -> Result<u8, Verdict> {
    let row = TOUCHED.get_ptr(u32::from(service)).ok_or(Verdict::MissingMap)?;
    // SAFETY: the index is below SLOTS, so the byte lies in the value; volatile, as it must be read
    // after the choice.
    Ok(unsafe { (&raw const (*row)[slot as usize & (SLOTS - 1)]).read_volatile() })
}

#[inline(always)]
pub fn touch(service: u16, slot: u32, epoch: u32) {
    if let Some(row) = TOUCHED.get_ptr_mut(u32::from(service)) {
        // SAFETY: the index is below SLOTS, so the byte lies in the value; a plain byte store, as
        // every writer of this cell stores a current epoch.
        unsafe { (&raw mut (*row)[slot as usize & (SLOTS - 1)]).write_volatile(epoch as u8 + 1) };
    }
}

/// A line of the dialog table.
#[derive(Clone, Copy)]
pub struct Line(*mut dialog::Line);

#[inline(always)]
pub fn line(index: u32) -> Result<Line, Verdict> {
    DIALOGS.get_ptr_mut(index).map(Line).ok_or(Verdict::MissingMap)
}

impl Line {
    /// The entry in `way`.
    #[inline(always)]
    pub fn load(self, way: u32) -> u64 {
        // SAFETY: the way is below eight, so the entry lies in the line; volatile, as other CPUs
        // and the controller store to it.
        unsafe { (&raw const (*self.0)[way as usize & (dialog::WAYS - 1)]).read_volatile() }
    }

    /// Replaces the entry in `way` by one store.
    #[inline(always)]
    pub fn store(self, way: u32, entry: u64) {
        // SAFETY: as in `load`.
        unsafe { (&raw mut (*self.0)[way as usize & (dialog::WAYS - 1)]).write_volatile(entry) };
    }

    /// Replaces the entry in `way` if it is still `held`; else another CPU was first, and false.
    #[inline(always)]
    pub fn exchange(self, way: u32, held: u64, entry: u64) -> bool {
        let found: u64;
        // SAFETY: as in `load`; the cell is an aligned word. (See `add_load` for why not an atomic.)
        unsafe {
            let cell = &raw mut (*self.0)[way as usize & (dialog::WAYS - 1)];
            asm!(
                "r0 = cmpxchg_64({cell} + 0, r0, {entry})",
                cell = in(reg) cell,
                entry = in(reg) entry,
                inout("r0") held => found,
                options(nostack, preserves_flags)
            );
        }
        found == held
    }
}

/// The record of a datagram in fragments.
#[inline(always)]
pub fn fragments(key: &fragment::Key) -> Option<&'static mut fragment::Record> {
    let record = FRAGMENTS.get_ptr_mut(key)?;
    // SAFETY: a valid map value. Other CPUs may change it meanwhile, and the kernel may give the
    // place to another datagram: at worst a fragment is misjudged, and the datagram lost.
    Some(unsafe { &mut *record })
}

#[inline(always)]
pub fn put_fragments(key: &fragment::Key, record: &fragment::Record) -> Result<(), Verdict> {
    FRAGMENTS.insert(key, record, 0).map_err(|_| Verdict::MissingMap)
}

/// The number of datagrams in fragments that were sent on so far, this one included.
#[inline(always)]
pub fn count_fragments() -> Result<u32, Verdict> {
    let count = FRAGMENT_COUNT.get_ptr_mut(0).ok_or(Verdict::MissingMap)?;
    let mut number = 1u64;
    // SAFETY: the one value of the map, aligned; the instruction adds to it and returns what it was
    // (kernel 5.12), whatever other CPUs do. The compiler has none for it in programs for BPF.
    unsafe {
        asm!(
            "{0} = atomic_fetch_add((u64 *)({1} + 0), {0})",
            inout(reg) number,
            in(reg) count,
            options(nostack)
        );
    }
    Ok(number as u32)
}

/// A first fragment that is being decided about on this CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pending {
    pub key: fragment::Key,
    pub record: fragment::Record,
}

#[inline(always)]
pub fn pending() -> Result<&'static mut Pending, Verdict> {
    let pending = FRAGMENT_DESK.get_ptr_mut(0).ok_or(Verdict::MissingMap)?;
    // SAFETY: the one value of the map, this CPU's copy; a program is not interrupted by another on
    // its CPU, and each caller lets go of it before the next asks.
    Ok(unsafe { &mut *pending })
}

#[inline(always)]
pub fn verdict_counter(index: u32) -> Option<*mut u64> {
    VERDICTS.get_ptr_mut(index)
}

#[inline(always)]
pub fn event_counter(index: u32) -> Option<*mut u64> {
    EVENTS.get_ptr_mut(index)
}

#[inline(always)]
pub fn binding_stats(id: u16) -> Option<*mut BindingStats> {
    BINDING_STATS.get_ptr_mut(u32::from(id))
}

/// This CPU's own place to put a record for the controller together.
#[inline(always)]
pub fn desk() -> Option<&'static mut Desk> {
    let desk = DESK.get_ptr_mut(0)?;
    // SAFETY: the one value of the map, this CPU's copy; a program is not interrupted by another on
    // its CPU, and each caller lets go of it before the next asks.
    Some(unsafe { &mut *desk })
}

/// Hands `record` and the first `record.len` bytes of the packet to the controller; false if its
/// buffer is full, or there is none.
#[inline(always)]
pub fn output(ctx: *mut xdp_md, record: &Record, len: u32) -> bool {
    let flags = u64::from(len) << 32 | u64::from(BPF_F_CURRENT_CPU);
    // SAFETY: context and map are valid, the record is as long as is said; the kernel checks that
    // the packet has so many bytes.
    let result = unsafe {
        bpf_perf_event_output(
            ctx.cast(),
            (&raw const SLOW_PATH).cast_mut().cast(),
            flags,
            (&raw const *record).cast_mut().cast(),
            size_of::<Record>() as u64,
        )
    };
    result == 0
}

/// What those who watch want to see, by slot.
#[inline(always)]
pub fn watch_filters() -> Option<&'static watch::Filters> {
    WATCH.get(0)
}

/// This CPU's own place for the packet that is watched.
#[inline(always)]
pub fn watch_desk() -> Option<&'static mut watch::Desk> {
    let desk = WATCH_DESK.get_ptr_mut(0)?;
    // SAFETY: as in `desk`.
    Some(unsafe { &mut *desk })
}

/// Hands over what was seen, `head` bytes of the frame as it came in, and `len` of it as it is now;
/// false if there is no room, or nobody to take it.
#[inline(always)]
pub fn show(ctx: *mut xdp_md, desk: &watch::Desk, head: u32, len: u32) -> bool {
    let head = if head > watch::HEAD as u32 { watch::HEAD as u32 } else { head };
    let flags = u64::from(len) << 32 | BPF_F_CURRENT_CPU;
    // SAFETY: context and map are valid, record and head lie beside each other and are as long as is
    // said; the kernel checks that the packet has so many bytes.
    let result = unsafe {
        bpf_perf_event_output(
            ctx.cast(),
            (&raw const WATCHED).cast_mut().cast(),
            flags,
            (&raw const *desk).cast_mut().cast(),
            size_of::<watch::Seen>() as u64 + u64::from(head),
        )
    };
    result == 0
}

/// Notes something about the decision for `replay` and for those who watch; nothing is left of it in
/// the program that is live otherwise.
#[inline(always)]
pub fn record(note: impl Fn(&mut Decision)) {
    if records()
        && let Some(cell) = DECISION.get_ptr_mut(0)
    {
        // SAFETY: the one value of the map, which only one test run at a time writes.
        note(unsafe { &mut *cell });
    }
    if watches()
        && let Some(desk) = watch_desk()
    {
        note(&mut desk.seen.decision);
    }
}

/// Notes for those who watch which interface the packet leaves by.
#[inline(always)]
pub fn record_egress(ifindex: u32) {
    if watches()
        && let Some(desk) = watch_desk()
    {
        desk.seen.egress = ifindex;
    }
}
