#!/usr/bin/env bash
# What action.yml runs. Inputs arrive as variables and stay such: none is part of
# a command line without quotes, none that begins with a dash is an option.
set -euo pipefail

refuse() {
    echo "::error::$1"
    exit 2
}

# is NAME VALUE
is() {
    case "$2" in
    true) return 0 ;;
    false | "") return 1 ;;
    *) refuse "$1 is true or false" ;;
    esac
}

if [ -n "$UPDRAFT_TOKEN" ]; then echo "::add-mask::$UPDRAFT_TOKEN"; fi
if [ -n "$UPDRAFT_COMMENT_TOKEN" ]; then echo "::add-mask::$UPDRAFT_COMMENT_TOKEN"; fi

bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
server=${UPDRAFT_SERVER%/}
# What comes in clear is somebody else's program, unless it is this machine that sends it.
proto='=https'
case "$server" in
http://127.0.0.1:* | http://localhost:*) proto='=http' ;;
*) if is insecure-http "$UPDRAFT_INSECURE_HTTP"; then proto='=http,https'; fi ;;
esac
curl -fsSL --proto "$proto" --retry 3 -o "$bin/updraft" -- "$server/install" || refuse "the control plane does not answer at the address in server"
sha256=${INPUT_SHA256:-$(curl -fsSL --proto "$proto" --retry 3 -- "$server/install/sha256" | cut -d ' ' -f 1)}
echo "$sha256  $bin/updraft" | sha256sum --check --quiet - ||
    refuse "the control plane serves another binary than sha256 pins: updraft ci init says which"
chmod +x "$bin/updraft"

if is close-preview "$INPUT_CLOSE_PREVIEW"; then
    closed=0
    "$bin/updraft" preview close || closed=$?
    exit "$closed"
fi

# Set for a deploy that may go to a Preview.
comments=false
deployment=()
if [ -n "$INPUT_DEPLOYMENT" ]; then deployment=("$INPUT_DEPLOYMENT"); fi

halves=()
case "$INPUT_DEPLOY_TYPE" in
infer | image-and-dags | "") ;;
dags-only) halves=(--dags) ;;
image-only) halves=(--image) ;;
*) refuse "deploy-type is infer, image-and-dags, dags-only or image-only" ;;
esac

# Before anything is done, not after it failed.
is rollback-on-failure "$INPUT_ROLLBACK" || true

patience=()
if [ -n "$INPUT_WAIT_TIME" ]; then patience=("--timeout=$INPUT_WAIT_TIME"); fi

if [ -n "$INPUT_PROMOTE_FROM" ]; then
    if [ -z "$INPUT_DEPLOYMENT" ]; then refuse "promote-from needs deployment-name, where it goes"; fi
    if is plan "$INPUT_PLAN"; then how=(--plan); else how=("${patience[@]}" "--reason=$INPUT_DESCRIPTION"); fi
    command=(promote "${halves[@]}" "${how[@]}" -o json -- "$INPUT_PROMOTE_FROM" "$INPUT_DEPLOYMENT")
elif is plan "$INPUT_PLAN"; then
    command=(deploy --plan "${halves[@]}" -o json)
    if [ -n "$UPDRAFT_COMMENT_TOKEN" ]; then command+=(--comment); fi
    command+=(-- "${deployment[@]}")
else
    command=(deploy "${halves[@]}" "${patience[@]}" "--description=$INPUT_DESCRIPTION" -o json)
    if [ -n "$INPUT_IMAGE_NAME" ]; then command+=("--image-name=$INPUT_IMAGE_NAME"); fi
    case "$INPUT_PARSE" in
    true) command+=(--parse) ;;
    false) command+=(--no-parse) ;;
    "") ;;
    *) refuse "parse is true, false or empty" ;;
    esac
    if is pytest "$INPUT_PYTEST"; then command+=(--pytest); fi
    if [ "${GITHUB_EVENT_NAME:-}" = pull_request ] && [ -n "$UPDRAFT_COMMENT_TOKEN" ]; then comments=true; fi
    command+=(-- "${deployment[@]}")
fi

ended=0
"$bin/updraft" "${command[@]}" >"$bin/result.json" || ended=$?
"$bin/updraft" ci report "$bin/result.json" || echo "::warning::The outputs and the summary could not be written"

# The comment has the Preview's address, and says also how a deploy failed.
if "$comments"; then
    "$bin/updraft" deploy --plan --comment "${halves[@]}" -- "${deployment[@]}" ||
        echo "::warning::The pull request has no comment"
fi

case "$ended" in
10)
    if is rollback-on-failure "$INPUT_ROLLBACK"; then
        "$bin/updraft" rollback --description="The deploy of a pipeline failed" -- "${deployment[@]}" ||
            echo "::error::It could not be rolled back either"
    fi
    ;;
12)
    echo "::notice title=superseded::A later deploy took the place of this one before it was proven"
    ended=0
    ;;
esac
exit "$ended"
