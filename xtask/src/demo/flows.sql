-- What one observer recorded, in the order of the connections' starts.
with flows as (
    select *,
        if(ip_version = 6, '[' || src_ip || ']', src_ip) as src,
        if(ip_version = 6, '[' || dst_ip || ']', dst_ip) as dst,
        if(ip_version = 6, '[' || nat_src_ip || ']', nat_src_ip) as nat_src,
        if(ip_version = 6, '[' || nat_dst_ip || ']', nat_dst_ip) as nat_dst,
    from read_parquet('{files}', hive_partitioning = true)
)
select
    strftime(make_timestamp(epoch_us(start_time)), '%H:%M:%S.%g') as start,
    proto_name as proto,
    concat_ws(':', src, src_port) as source,
    concat_ws(':', dst, dst_port) as destination,
    concat_ws(' ',
        'from ' || nullif(concat_ws(':', nat_src, nat_src_port), ''),
        'to ' || nullif(concat_ws(':', nat_dst, nat_dst_port), '')) as nat,
    orig_bytes as sent,
    reply_bytes as received,
    end_reason as end,
    concat_ws(' ', src_pid, src_exe) as source_process,
    coalesce(src_attribution, '') as src_attribution,
    coalesce(left(src_container_id, 12), '') as src_container,
    concat_ws(' ', dst_pid, dst_exe) as destination_process,
    coalesce(dst_attribution, '') as dst_attribution,
from flows
order by start_time
