# A login (ssh without a command) lands in tmux unless ~/.no_auto_tmux exists. A script that is piped into such a
# login is broken by it; `ssh host command` is not.
if [ -z "${TMUX:-}" ] && [ -n "${SSH_CONNECTION:-}" ] && [ ! -e ~/.no_auto_tmux ]; then
    exec tmux new-session -A -s ssh_tmux
fi
