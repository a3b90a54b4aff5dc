# Bash takes words apart at ':' and '=', which addresses and settings have inside. They are put together again for the
# program, and of what it offers, the part before the piece that bash completes is taken off.
_jangada() {
    local line=$COMP_LINE joined=() current=0 index word piece
    for index in "${!COMP_WORDS[@]}"; do
        word=${COMP_WORDS[index]} piece=$word
        # Only up to the cursor, but for a separator, which bash leaves out.
        if ((index == COMP_CWORD)) && [[ -n $2 || $word != [:=]* ]]; then
            piece=$2
        fi
        if ((index > 0)) && [[ $line != [[:space:]]* && ($word == [:=]* || ${COMP_WORDS[index - 1]} == *[:=]) ]]; then
            joined[${#joined[@]} - 1]+=$piece
        else
            joined+=("$piece")
        fi
        if ((index == COMP_CWORD)); then
            current=$((${#joined[@]} - 1))
        fi
        line=${line#*"$word"}
    done
    local COMP_WORDS=("${joined[@]}") COMP_CWORD=$current
    _clap_complete_jangada "$1" "${joined[current]}" "${joined[current - 1]}"
    local before=${joined[current]%"$2"}
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -o nospace -o bashdefault -o nosort -F _jangada jangada 2>/dev/null ||
    complete -o nospace -o bashdefault -F _jangada jangada
