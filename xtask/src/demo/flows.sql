-- What one observer recorded, in the order of the connections' starts: at most 110 columns of a terminal.
with flows as (
    select *,
        if(ip_version = 6, '[' || src_ip || ']', src_ip) as src,
        if(ip_version = 6, '[' || dst_ip || ']', dst_ip) as dst,
    from read_parquet('{files}', hive_partitioning = true)
)
select
    strftime(make_timestamp(epoch_us(start_time)), '%H:%M:%S') as time,
    left(concat_ws(' > ', parse_filename(src_exe), parse_filename(dst_exe)), 23) as program,
    concat_ws(':', src, src_port) as "from",
    concat_ws(':', dst, dst_port) as "to",
    orig_bytes + reply_bytes as bytes,
    end_reason as "end",
from flows
order by start_time
