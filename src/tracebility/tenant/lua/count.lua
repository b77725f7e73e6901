-- Decide which entry of an envelope it counts for: the first that asks, for as long as that is remembered. O(envelopes).
--
-- KEYS  of each envelope: the place of the entry it counts for
-- ARGV  1 how long to remember it, in milliseconds, then of each envelope: the place of the entry that asks, 1 when an
--       outcome is known of before
-- Answers 1 where it counts for the entry that asks, else 0.
local counts = {}
for nth, key in ipairs(KEYS) do
    local place = redis.call('GET', key)
    -- An outcome of which the place is forgotten is an entry's that has left. Nothing need be remembered of that: it is
    -- known again, whoever asks.
    if not place and ARGV[nth * 2 + 1] == '0' then
        place = ARGV[nth * 2]
        redis.call('SET', key, place, 'PX', ARGV[1])
    end
    counts[nth] = place == ARGV[nth * 2] and 1 or 0
end
return counts
