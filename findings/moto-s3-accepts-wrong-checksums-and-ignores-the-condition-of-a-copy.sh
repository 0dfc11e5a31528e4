#!/usr/bin/env bash
# Component: moto 5.2.5 (PyPI) as an S3 server, with boto3 1.44.8.
# Common guess: a mock that knows conditional PUT (it answers 412 to If-None-Match: *) also refuses
#   a body whose Content-MD5 or x-amz-checksum-sha256 is wrong, and honours the same condition on
#   CopyObject.
# Behaviour: both wrong checksums are accepted with 200 and the object is stored; CopyObject with
#   If-None-Match: * replaces an object that exists. Real S3 documents 400 BadDigest and 412.
# Who is hurt: tests of upload integrity and of compare-and-swap by copy that run against moto only:
#   they pass with the check left out.
set -euo pipefail
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" 2>/dev/null || true; }; rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip -q --disable-pip-version-check install 'moto[server]==5.2.5' boto3==1.44.8
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
env/bin/moto_server -H 127.0.0.1 -p "$port" >moto.log 2>&1 &
pid=$!
cat >ask.py <<'PY'
import sys, time, urllib.request
url = "http://127.0.0.1:" + sys.argv[1]
for _ in range(60):
    try:
        urllib.request.urlopen(url + "/", timeout=5)
        break
    except OSError:
        time.sleep(1)
import boto3
from botocore.exceptions import ClientError
s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1",
                  aws_access_key_id="any", aws_secret_access_key="any")
s3.create_bucket(Bucket="bucket")
def ask(what, call):
    try:
        print(f"{what}:", call()["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        print(f"{what}:", error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"])
def put(key, **more):
    return s3.put_object(Bucket="bucket", Key=key, Body=b"x", **more)
ask("first PUT", lambda: put("a"))
ask("PUT If-None-Match: * of a key that exists", lambda: put("a", IfNoneMatch="*"))
ask("PUT with a wrong Content-MD5", lambda: put("b", ContentMD5="A" * 22 + "=="))
ask("PUT with a wrong SHA-256", lambda: put("c", ChecksumSHA256="A" * 43 + "="))
ask("CopyObject If-None-Match: * onto a key that exists",
    lambda: s3.copy_object(Bucket="bucket", Key="b", CopySource="bucket/a", IfNoneMatch="*"))
PY
env/bin/python ask.py "$port" | tee seen
cat >expected <<'WANT'
first PUT: 200
PUT If-None-Match: * of a key that exists: 412 PreconditionFailed
PUT with a wrong Content-MD5: 200
PUT with a wrong SHA-256: 200
CopyObject If-None-Match: * onto a key that exists: 200
WANT
diff expected seen || { echo "the behaviour has changed"; exit 1; }
