//! Counters; one copy per CPU but for [`Load`].

/// Traffic of one binding.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct BindingStats {
    /// Packets sent to the backend, and their bytes of IP.
    pub forwarded: u64,
    pub forwarded_bytes: u64,
    /// Requests among `forwarded`.
    pub requests: u64,
    /// Packets from the backend, and their bytes of IP.
    pub replied: u64,
    pub replied_bytes: u64,
    /// Requests among `replied`: calls that the server starts.
    pub server_requests: u64,
    /// Responses of the backend by class, 1xx first.
    pub responses: [u64; 6],
}
const _: () = assert!(size_of::<BindingStats>() == 96);

/// Live dialogs of one binding, shared by all CPUs, as `balance: least-dialogs` counts them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(Debug))]
pub struct Load {
    /// Dialogs begun less dialogs ended; only the datapath adds to it, and it wraps around.
    pub changes: u64,
    /// What to add for the number of live ones; only the controller writes it, after each sweep.
    pub base: u64,
}
const _: () = assert!(size_of::<Load>() == 16);

impl Load {
    /// The number of live dialogs.
    #[inline(always)]
    #[must_use]
    pub const fn dialogs(self) -> u64 {
        let sum = self.changes.wrapping_add(self.base);
        // Below zero: more ended since the sweep than it found.
        if sum >> 63 == 0 { sum } else { 0 }
    }

    /// The base that makes it `live` for as long as nothing changes.
    #[must_use]
    pub const fn base(live: u64, changes: u64) -> u64 {
        live.wrapping_sub(changes)
    }
}

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// What happens beside a verdict; each has a per-CPU counter.
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(feature = "user", derive(Debug))]
        #[repr(u8)]
        pub enum Event {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Event {
            /// Every event, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The word that labels the metric.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// What a count means.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

events! {
    /// A dialog entry was written.
    DialogCreated = "dialog-created",
    /// A dialog entry was confirmed by an answer or by the backend's own request.
    DialogConfirmed = "dialog-confirmed",
    /// A dialog entry ended: by BYE, or by the answer to a request that stood alone.
    DialogEnded = "dialog-ended",
    /// A call was refused, cancelled or challenged.
    DialogRefused = "dialog-refused",
    /// A dialog entry was rewritten because its backend is down.
    DialogMoved = "dialog-moved",
    /// A live unconfirmed entry was replaced by a newer one: the table is small for this traffic.
    DialogEvicted = "dialog-evicted",
    /// A confirmed entry was replaced by another confirmed one: the table is small for this traffic.
    DialogEvictedConfirmed = "dialog-evicted-confirmed",
    /// No entry could be written because the line is full of dialogs that matter more.
    DialogLineFull = "dialog-line-full",
    /// A message without a Call-ID was placed by its source address.
    NoCallId = "no-call-id",
    /// A Call-ID longer than 256 bytes was hashed by its first 256 bytes and its length.
    LongCallId = "long-call-id",
    /// A message carried a second Call-ID; the first decided.
    SecondCallId = "second-call-id",
    /// The next hop was not mirrored, so the program asked the kernel's routing table.
    FibLookup = "fib-lookup",
    /// A rewritten packet was handed to the kernel because no neighbour was known.
    KernelForward = "kernel-forward",
}

/// Counters in the event map.
pub const EVENTS: usize = Event::ALL.len();
